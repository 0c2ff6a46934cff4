"""The Hugging Face hub: what a repository holds, and the local copies of its files."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from seen_jax.errors import CheckpointError

SMALL = (".json", ".jinja", ".txt", ".model")  # suffixes of configurations and tokenizers


class HubOptions(TypedDict, total=False):
    """How `load` asks the hub; see `Hub`."""

    revision: str | None
    token: str | bool | None
    local_files_only: bool


@dataclasses.dataclass(frozen=True)
class Hub:
    """How the hub is asked.

    revision: branch, tag or commit; None: the main branch. token: an access token; None: that of `hf auth login` or
    HF_TOKEN. local_files_only: use what was downloaded before, and ask nothing.
    """

    revision: str | None = None
    token: str | bool | None = None
    local_files_only: bool = False

    def files(self, name: str) -> list[str] | None:
        """The files of a repository; None where the hub cannot be asked. CheckpointError for one that is not there, or
        is a data set."""
        if self.local_files_only:
            return None
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        api = HfApi(token=self.token)
        try:
            return [file.rfilename for file in api.model_info(name, revision=self.revision).siblings or ()]
        except RevisionNotFoundError:
            raise CheckpointError(f"{name} has no revision '{self.revision}' on the hub.") from None
        except RepositoryNotFoundError:
            problem = "was not found on the hub, and is no local folder; a private model needs `hf auth login`."
            if api.repo_exists(name, repo_type="dataset"):
                problem = "is a data set on the hub, not a model."
            raise CheckpointError(f"{name} {problem}") from None
        except Exception:  # of the HTTP client, which differs between versions: an earlier download may do
            return None

    def fetch(self, name: str, files: Sequence[str] | None) -> Path:
        """The local folder of a repository with these files, downloaded once. None: what an earlier download left."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

        local = self.local_files_only or files is None
        patterns = None if files is None else list(files)
        options: Any = {"revision": self.revision, "token": self.token, "allow_patterns": patterns}
        try:
            return Path(snapshot_download(name, local_files_only=local, **options))
        except GatedRepoError:
            problem = "is gated: accept its licence on the hub, then log in with `hf auth login`."
        except LocalEntryNotFoundError as e:
            if partial := getattr(e, "snapshot_path", None):  # whoever reads it says what is missing
                return Path(partial)
            reason = "nothing else was asked for" if self.local_files_only else f"the hub cannot be reached ({e})"
            problem = f"is not, or not wholly, in the local hub cache, and {reason}."
        except OSError as e:  # all other errors of the hub too
            problem = f"cannot be downloaded from the hub ({e})."
        raise CheckpointError(f"{name} {problem}")


HUB = Hub()
