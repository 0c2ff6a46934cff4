"""What a model family is: how its folders are read, its clips are cut and its prompts are written."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from seen_jax.errors import CheckpointError, ConfigError
from seen_jax.models.chat_template import render
from seen_jax.models.config import ConformerConfig, DecoderConfig, EncoderConfig, LalmConfig
from seen_jax.models.folders import Part
from seen_jax.models.framing import Framing
from seen_jax.models.ranges import check_range
from seen_jax.models.weights import Rule
from seen_jax.registry import FAMILIES

Chat = Sequence[Mapping[str, Any]]
Counts = Sequence[Sequence[int]]  # audio tokens of each encoder row of each clip
Raw = Mapping[str, Any]  # config.json with the defaults of its class, or a section of it

# Keys that transformers writes into every section. Decoding is the caller's choice (`Decoding`), and the token ids that
# stop it are read apart.
EVERYWHERE = (
    "_name_or_path name_or_path _commit_hash _attn_implementation _attn_implementation_autoset attn_implementation "
    "architectures auto_map custom_pipelines model_type transformers_version dtype torch_dtype use_bfloat16 "
    "tf_legacy_loss torchscript pruned_heads problem_type id2label label2id num_labels finetuning_task "
    "task_specific_params tokenizer_class prefix output_attentions output_hidden_states output_scores return_dict "
    "use_return_dict return_dict_in_generate use_cache chunk_size_feed_forward is_encoder_decoder is_decoder "
    "add_cross_attention cross_attention_hidden_size tie_encoder_decoder initializer_range init_std ignore_index "
    "bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id forced_bos_token_id "
    "forced_eos_token_id forced_decoder_ids suppress_tokens begin_suppress_tokens bad_words_ids max_length min_length "
    "do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p "
    "repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size num_return_sequences "
    "remove_invalid_values exponential_decay_length_penalty"
)


def unsupported(section: str, key: str, value: Any, expected: str) -> CheckpointError:
    """The error that refuses a value of config.json by name. section: "" for the top level."""
    name = f"{section}.{key}" if section else key
    return CheckpointError(f"config.json: {name} = {value!r} is not supported; {expected}.")


def expect(section: Raw, name: str, values: Raw) -> None:
    """Raise CheckpointError unless the section states these values or leaves them out."""
    for key, value in values.items():
        if section.get(key, value) != value:
            raise unsupported(name, key, section[key], f"expected {value!r}")


@contextlib.contextmanager
def _only_errors() -> Iterator[None]:
    """transformers logs errors alone: its classes warn about token ids of parts that are not used here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(max(level, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(level)


@_only_errors()
def completed(model_type: str, section: Raw) -> dict[str, Any]:
    """A section with the defaults of transformers' class for this model type."""
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type].from_dict(dict(section)).to_dict()


@functools.lru_cache
@_only_errors()
def _defaults(model_type: str) -> Raw:
    """What transformers' class for this model type sets by default; nothing for a type that it does not have."""
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type]().to_dict() if model_type in CONFIG_MAPPING else {}


@dataclasses.dataclass(frozen=True)
class Keys:
    """The keys of one section of config.json that a family knows. Names stand in one text, separated by blanks."""

    reads: str = ""  # keys that the family uses
    ignores: str = ""  # keys without effect on the answer to audio and text; those of `EVERYWHERE` need no mention
    only: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)  # {key: values that are supported}

    def __or__(self, other: "Keys") -> "Keys":
        """The keys of both; `other` decides where both restrict a key."""
        reads, ignores = f"{self.reads} {other.reads}", f"{self.ignores} {other.ignores}"
        return Keys(reads, ignores, {**self.only, **other.only})

    @property
    def known(self) -> set[str]:
        return {*self.reads.split(), *self.ignores.split(), *self.only}

    def refuse(self, section: Raw, name: str) -> None:
        """Raise CheckpointError for a value that is not supported or out of range."""
        for key in self.reads.split():
            check_range(name, key, section.get(key))
        for key, values in self.only.items():
            if key in section and section[key] not in values:
                raise unsupported(name, key, section[key], f"expected {' or '.join(map(repr, values))}")

    def check(self, section: Raw, name: str) -> None:
        """Raise CheckpointError for a value that is not supported or out of range, and for a key that is not known here
        and does not have the default of transformers' class for the section's model type."""
        self.refuse(section, name)
        unknown = sorted(section.keys() - self.known - set(EVERYWHERE.split()))
        defaults = _defaults(str(section.get("model_type"))) if unknown else {}
        for key in unknown:
            if section[key] != defaults.get(key):
                default = f" or {defaults[key]!r}, transformers' default" if key in defaults else ""
                raise unsupported(name, key, section[key], f"the key is not known here; expected no such key{default}")


class Family:
    """A family of models. Each has one file with one instance of a subclass, which the registry FAMILIES finds."""

    name: str  # in prompts.yaml, on the command line and in messages
    model_types: tuple[str, ...]  # values of config.json's `model_type` that the family reads
    hub: tuple[str, ...] = ()  # names of its models on the hub, first the one that `published` describes
    licence: str = ""  # of their weights, by their cards
    verified: str  # what the port was compared with
    published: ClassVar[Raw] = {}  # what the published config.json states beyond the defaults of its class
    framing: Framing  # how a clip becomes rows of the encoder
    # (pattern, replacement) that bring other key layouts to the published one; the first match counts
    renames: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()  # patterns of published keys that audio and text do not need
    parts: tuple[Part, ...] = ()  # parts of the model that may lie in folders of their own
    sections: ClassVar[Mapping[str, Keys]] = {}  # {section of config.json, "" for the top level: its known keys}
    # tokens whose ids config.json does not state, that of audio first; `config` finds them in raw["tokens"]
    tokens: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()  # tokens that end an answer beside those that the folder states, where it has them
    embeds_prompt: bool = False  # whether the original's `generate` knows nothing of the prompt but its embeddings
    audio: str  # the text that stands for a clip in a rendered chat template
    chat_template: str = ""  # a Jinja template for folders without one
    own_template: bool = False  # whether it is used even if the folder has another

    def complete(self, raw: Raw) -> dict[str, Any]:
        """config.json with the defaults of its class in transformers. A folder's own code never runs."""
        self.check_sections(raw)
        return completed(raw["model_type"], raw)

    def check_sections(self, raw: Raw) -> None:
        """Raise CheckpointError for a section that states another model type, or sizes out of range, before a class of
        transformers computes with them and replaces what it does not know."""
        for name, keys in self.sections.items():
            section = raw.get(name) if name else raw
            if isinstance(section, Mapping):
                types = keys.only.get("model_type") if name else None
                Keys(keys.reads, only={"model_type": types} if types else {}).refuse(section, name)

    def check(self, raw: Raw) -> None:
        """Raise CheckpointError for what a completed config.json states and the port does not have, by name."""
        for name, keys in self.sections.items():
            keys.check((raw.get(name) or {}) if name else raw, name)

    def encoder(self, raw: Raw, decoder: DecoderConfig) -> EncoderConfig | ConformerConfig:
        """The audio encoder and projector of a completed config.json."""
        raise NotImplementedError

    def decoder(self, raw: Raw) -> DecoderConfig:
        """The language model of a completed config.json."""
        raise NotImplementedError

    def audio_token(self, raw: Raw) -> int:
        """The id that holds the places of audio tokens; -1 where `prompt` alone says where they lie."""
        if not self.tokens:
            return first(raw, "audio_token_id", "audio_token_index")
        token = self.tokens[0]
        if raw["tokens"][token] is None:
            raise CheckpointError(f"tokenizer.json has no token {token}, which stands for audio in {self.name}.")
        return raw["tokens"][token]

    def config(self, raw: Raw, eos: tuple[int, ...], pad: int | None) -> LalmConfig:
        """The model of a completed config.json. eos, pad: token ids that the folder states."""
        decoder = self.decoder(raw)
        encoder, audio = self.encoder(raw, decoder), self.audio_token(raw)
        named = [raw["tokens"].get(name) for name in self.ends(raw)]
        stops = tuple(dict.fromkeys([*eos, *(token for token in named if token is not None)]))
        return LalmConfig(self.name, encoder, decoder, audio, stops, eos[0] if pad is None else pad)

    def ends(self, raw: Raw) -> Sequence[str]:
        """Those of `stops` that end an answer of this model."""
        return self.stops

    def rules(self, config: LalmConfig) -> list[Rule]:
        """The weight table, in published names."""
        raise NotImplementedError

    def fallback(self, tokenizer: Any) -> str:
        """The chat template of a folder without one."""
        return self.chat_template

    def flat(self, chat: Chat) -> list[Any]:
        """The chat as the template takes it."""
        return list(chat)

    def expand(self, tokens: int) -> str:
        """What replaces `audio` in the rendered template, for a clip of so many audio tokens."""
        return self.audio * tokens

    def render(self, tokenizer: Any, chat: Chat) -> str:
        """The text of a chat up to the answer, with `audio` where a clip belongs, by the template that
        `choose_template` left to the tokenizer, or by the family's own. CheckpointError for a template that fails, or
        that leaves out the clips."""
        of_family = self.fallback(tokenizer)
        template = (None if self.own_template else folder_template(tokenizer)) or of_family
        origin = getattr(template, "file", self.name if template is of_family else tokenizer.name_or_path)
        where = f"the chat template of {origin}"
        text = render(template, self.flat(chat), tokenizer.special_tokens_map, where)
        parts = (part for message in chat if isinstance(message["content"], list) for part in message["content"])
        if self.audio not in text and any(part.get("type") == "audio" for part in parts):
            raise CheckpointError(f"{where} leaves no place for a clip ({self.audio}).")
        return text

    def choose_template(self, tokenizer: Any, of_processor: str | None) -> None:
        """Leave the template of a folder to its tokenizer: the processor's, else the tokenizer's own unless it fails on
        audio or leaves it out, so that the family's takes its place."""
        if of_processor is not None:
            tokenizer.chat_template = of_processor
        elif self.chat_template and folder_template(tokenizer):
            parts = [{"type": "audio"}, {"type": "text", "text": "?"}]
            try:
                self.render(tokenizer, [{"role": "user", "content": parts}])
            except CheckpointError:
                tokenizer.chat_template = None

    def prompt(self, tokenizer: Any, chat: Chat, counts: Counts, audio_token: int) -> tuple[list[int], list[int]]:
        """(token ids of the prompt, positions of its audio tokens): the rendered chat with expanded clips. Raises
        ConfigError unless the chat has as many places for audio as there are clips."""
        pieces = self.render(tokenizer, chat).split(self.audio)
        check_places(len(pieces) - 1, counts, self.audio)
        clips = [self.expand(sum(rows)) for rows in counts]
        expanded = pieces[0] + "".join(clip + piece for clip, piece in zip(clips, pieces[1:], strict=True))
        ids = tokenizer(expanded, add_special_tokens=False)["input_ids"]
        return ids, [i for i, token in enumerate(ids) if token == audio_token]


def folder_template(tokenizer: Any) -> str | None:
    """The template of a tokenizer, or the default of several."""
    template = tokenizer.chat_template
    return template.get("default") if isinstance(template, Mapping) else template


def first(section: Raw, *names: str) -> Any:
    """The first of these attributes that is set: some have an old and a new name."""
    for name in names:
        if section.get(name) is not None:
            return section[name]
    raise CheckpointError(f"config.json lacks {' and '.join(names)}.")


def check_places(places: int, counts: Counts, audio: str) -> None:
    """Raise ConfigError unless a prompt has as many places for audio as there are clips."""
    if places != len(counts):
        raise ConfigError(f"the prompt has {places} audio places ({audio}) for {len(counts)} clips.")


def family_of(model_type: Any, where: Path) -> Family:
    """The family that reads a config.json with this model_type; `where` it lies, for messages."""
    matches = [family for family in FAMILIES.values() if model_type in family.model_types]
    if len(matches) == 1:
        return matches[0]
    problem = f"belongs to several families: {' and '.join(family.name for family in matches)}."
    if not matches:
        known = ", ".join(kind for family in FAMILIES.values() for kind in family.model_types)
        problem = f"is not supported. Supported: {known}."
    raise CheckpointError(f"{where}: model_type '{model_type}' {problem}")


def published_config(family: Family) -> LalmConfig:
    """The configuration of a family's published model; token ids that depend on the folder are 0."""
    raw = family.complete({"model_type": family.model_types[0], **family.published})
    family.check(raw)
    return family.config({**raw, "tokens": dict.fromkeys(family.tokens, 0)}, (0,), 0)
