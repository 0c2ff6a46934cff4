"""The method in a browser (`seen-jax app`): `session` computes, `views` writes HTML, `page` is the Gradio shell."""
