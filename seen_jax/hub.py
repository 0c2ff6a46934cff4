"""The Hugging Face hub: what a repository holds, the local copies of its files, and new files in it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from seen_jax.errors import CheckpointError, SeenError

SMALL = (".json", ".jinja", ".txt", ".model")  # suffixes of configurations and tokenizers
NAMES = {"model": "model", "dataset": "data set"}  # of kinds of repositories, in messages


class HubOptions(TypedDict, total=False):
    """How `load` asks the hub; see `Hub`."""

    revision: str | None
    token: str | bool | None
    local_files_only: bool


class PushOptions(TypedDict, total=False):
    """How `Hub.push` is asked; see there."""

    revision: str | None
    token: str | bool | None
    private: bool


@dataclasses.dataclass(frozen=True)
class Hub:
    """How the hub is asked.

    revision: branch, tag or commit; None: the main branch. token: an access token; None: that of `hf auth login` or
    HF_TOKEN. local_files_only: use what was downloaded before, and ask nothing. kind: of the repositories. what: a
    repository is expected to hold, in messages. error: the class of what is raised.
    """

    revision: str | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    kind: Literal["model", "dataset"] = "model"
    what: str = "model"
    error: type[SeenError] = CheckpointError

    def files(self, name: str) -> list[str] | None:
        """The files of a repository; None where the hub cannot be asked. `error` for one that is not there, or is of
        the other kind."""
        if self.local_files_only:
            return None
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

        api, other = HfApi(token=self.token), "dataset" if self.kind == "model" else "model"
        try:
            info: Any = api.repo_info(name, revision=self.revision, repo_type=self.kind)
            return [file.rfilename for file in info.siblings or ()]
        except HFValidationError:
            raise self.error(f"'{name}' is no name of a repository on the hub, such as org/name.") from None
        except RevisionNotFoundError:
            raise self.error(f"{name} has no revision '{self.revision}' on the hub.") from None
        except RepositoryNotFoundError:
            local = ", and is no local folder" if self.what == "model" else ""
            problem = f"was not found on the hub{local}; a private {self.what} needs `hf auth login`."
            if api.repo_exists(name, repo_type=other):
                problem = f"is a {NAMES[other]} on the hub, not a {self.what}."
            raise self.error(f"{name} {problem}") from None
        except Exception:  # of the HTTP client, which differs between versions: an earlier download may do
            return None

    def existing_files(self, name: str) -> list[str]:
        """The files of a repository that need not be there."""
        from huggingface_hub import HfApi

        try:
            return list(HfApi(token=self.token).list_repo_files(name, revision=self.revision, repo_type=self.kind))
        except Exception:  # it is not there, or what is wrong will also be wrong when it is written
            return []

    def fetch(self, name: str, files: Sequence[str] | None) -> Path:
        """The local folder of a repository with these files, downloaded once. None: what an earlier download left."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

        local = self.local_files_only or files is None
        patterns = None if files is None else list(files)
        options: Any = {"revision": self.revision, "token": self.token, "allow_patterns": patterns}
        try:
            return Path(snapshot_download(name, repo_type=self.kind, local_files_only=local, **options))
        except GatedRepoError:
            problem = "is gated: accept its licence on the hub, then log in with `hf auth login`."
        except LocalEntryNotFoundError as e:
            if partial := getattr(e, "snapshot_path", None):  # whoever reads it says what is missing
                return Path(partial)
            reason = "nothing else was asked for" if self.local_files_only else f"the hub cannot be reached ({e})"
            problem = f"is not, or not wholly, in the local hub cache, and {reason}."
        except OSError as e:  # all other errors of the hub too
            problem = f"cannot be downloaded from the hub ({e})."
        except ValueError as e:  # a name that no repository can have
            problem = f"is no name of a repository on the hub ({e})."
        raise self.error(f"{name} {problem}")

    def push(self, name: str, folder: Path, message: str, private: bool = False) -> str:
        """Add the files of a folder to a repository, which is made if it is not there, in one commit. Returns the
        commit. `error` where the hub refuses or cannot be reached."""
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        api = HfApi(token=self.token)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        additions = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
        try:
            api.create_repo(name, repo_type=self.kind, private=private, exist_ok=True)
            options: Any = {"repo_type": self.kind, "revision": self.revision, "commit_message": message}
            return api.create_commit(name, additions, **options).oid
        except HFValidationError:
            problem = "is no name of a repository on the hub, such as org/name."
        except HfHubHTTPError as e:
            status = getattr(e.response, "status_code", None)
            problem = f"cannot be written on the hub ({e})."
            if status in (401, 403):
                problem = (
                    "cannot be written on the hub: log in with `hf auth login`, with a token that may write to it."
                )
        except Exception as e:  # of the HTTP client, of LFS and of Xet, which differ between versions
            problem = f"cannot be written on the hub ({type(e).__name__}: {e})."
        raise self.error(f"{name} {problem}")


HUB = Hub()
