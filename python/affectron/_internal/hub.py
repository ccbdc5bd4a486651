"""Repositories of the Hugging Face hub: objects to and from their files, and the reasons why the hub refuses."""

from __future__ import annotations

import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, TypeVar

from affectron._internal import model_card
from affectron._internal.model_card import Description, Tested
from affectron._internal.warning import warn
from affectron.errors import InputError, Note

Kept = TypeVar("Kept", bound="Shareable")

_CARD = "README.md"
_NAME = re.compile(r"[\w./-]+")
_OFFLINE = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids"
_LOG_IN = "hf auth login, or HF_TOKEN"


class Shareable(ABC):
    """Object that is saved to a file, and kept in a repository of the Hugging Face hub by that file."""

    #: Name of the file in a repository, unless another is given.
    hub_file: ClassVar[str]

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file."""

    @classmethod
    @abstractmethod
    def load(cls: type[Kept], path: str | os.PathLike[str]) -> Kept:
        """Read a file that :meth:`save` wrote."""

    @abstractmethod
    def _described(self) -> Description:
        """The contents, for the model card."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        file: str | None = None,
        validation: Tested | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Save to a repository of the Hugging Face hub, which is made if there is none, with a model card.

        The card, README.md, says what the file is, of which model, how it was measured and selected, how it was tested,
        and how it is loaded. It has a section for each file, between two marks; only what stands between them is
        written again. A README.md without these marks is left as it is, and a warning says so. No text of the corpus
        leaves the machine.

        Args:
            repo_id: name of the repository, ``owner/name``.
            file: name of the file there; by default that of the class. A repository with several programs has a name
                for each.
            validation: result of :func:`affectron.validate` for these neurons; without one the card says that they were
                not tested.
            commit_message: by default the name of the file and the version of the library.
            private: make a new repository private; None leaves it to the owner's settings.
            token: token that may write; by default the one of the login (``hf auth login``, or HF_TOKEN).
            revision: branch, which is made if there is none; by default main.
            create_pr: open a pull request in place of a commit.

        Returns:
            address of the commit, or of the pull request.

        Raises:
            InputError: the hub cannot be asked or refuses, the validation is of other neurons, or a file cannot have
                this name.
        """
        from huggingface_hub import CommitOperationAdd, HfApi

        file = file or self.hub_file
        if file == _CARD or not _NAME.fullmatch(file):
            raise InputError(f"file is {file!r}, expected a name of letters, digits and . _ - /, other than {_CARD}")
        named = f', file="{file}"' if file != self.hub_file else ""
        loading = f'{model_card.LIBRARY}.{type(self).__name__}.from_hub("{repo_id}"{named})'
        described = self._described()
        section = model_card.section(file, loading, described, validation)
        api = HfApi(token=token, library_name=model_card.LIBRARY)
        with tempfile.TemporaryDirectory() as folder, _refusals(repo_id, f"cannot push to {repo_id}"):
            saved = Path(folder) / "file"
            self.save(saved)
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            head = api.repo_info(repo_id, revision=revision).sha
            operations = [CommitOperationAdd(file, saved)]
            card = model_card.head(repo_id.rpartition("/")[2], described.provenance) + f"\n{section}\n"
            if _CARD in api.list_repo_files(repo_id, revision=head):
                there = Path(api.hf_hub_download(repo_id, _CARD, revision=head)).read_text("utf-8")
                card = model_card.with_section(there, file, section) or ""
            if card:
                operations.append(CommitOperationAdd(_CARD, card.encode()))
            else:
                warn(
                    f"{_CARD} of {repo_id} is left as it is, and {file} is pushed without a card; to have one there, "
                    f"put these into it and push again: {' '.join(model_card.marks(file))}",
                    Note,
                )
            # The commit is refused if the branch has moved since the card was read.
            done = api.create_commit(
                repo_id, operations, commit_message=commit_message or f"Add {file}", revision=revision,
                create_pr=create_pr, parent_commit=head,
            )  # fmt: skip
        return done.pr_url or done.commit_url

    @classmethod
    def from_hub(
        cls: type[Kept],
        repo_id: str | os.PathLike[str],
        *,
        file: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Kept:
        """Load from a repository of the Hugging Face hub, or from a folder.

        Args:
            repo_id: name of the repository, ``owner/name``, or the path of a folder.
            file: name of the file there; by default that of the class.
            revision: branch, tag or commit; by default main.
            token: token that may read a private repository; by default the one of the login.
            cache_dir: folder for what is downloaded; by default the hub's cache (HF_HOME).
            local_files_only: take what is in the cache, and do not ask the hub.

        Raises:
            InputError: there is no such repository, revision or file (the message names the files there), the hub
                cannot be asked, or the file is of another kind or damaged.
        """
        file = file or cls.hub_file
        if os.path.isdir(repo_id):
            path = Path(repo_id) / file
            if not path.is_file():
                raise InputError(_no_such_file(repo_id, file, (entry.name for entry in Path(repo_id).iterdir())))
            return cls.load(path)
        if isinstance(repo_id, os.PathLike):
            raise InputError(f"folder {repo_id} does not exist, expected one with {file}")
        from huggingface_hub import HfApi
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        api = HfApi(token=token, library_name=model_card.LIBRARY)
        with _refusals(repo_id, f"{repo_id} is no folder here", cache_dir, local_files_only):
            try:
                downloaded = api.hf_hub_download(
                    repo_id, file, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
                )
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError as error:
                there = api.list_repo_files(repo_id, revision=revision)
                raise InputError(_no_such_file(repo_id, file, there)) from error
        return cls.load(downloaded)


def _no_such_file(place: str | os.PathLike[str], file: str, there: Iterable[str]) -> str:
    names = sorted(name for name in there if name.endswith((".safetensors", ".json")))
    held = f"it has {', '.join(names)}: name one with file=" if names else "it has no such file under another name"
    return f"{place} has no {file}; {held}"


@contextmanager
def _refusals(
    repo_id: str, tried: str, cache_dir: str | Path | None = None, local_files_only: bool = False
) -> Iterator[None]:
    """Give the reason why the hub refuses in one line that begins with ``tried``."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        told = refusal(error, repo_id, "repository", cache_dir, local_files_only)
        raise InputError(f"{tried}: {told}") from error


def refusal(
    error: Exception,
    name: str,
    kind: str,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> str:
    """Explain an error of huggingface_hub, as a sentence without its end.

    Args:
        error: the error.
        name: name on the hub that was asked for.
        kind: a model or a repository.
        cache_dir: cache in which it was looked for; None for the hub's.
        local_files_only: the hub was not to be asked.
    """
    from huggingface_hub import constants, errors

    if isinstance(error, errors.HFValidationError):
        return f"this is no name on the hub, expected that of a {kind}, owner/name"
    if isinstance(error, errors.GatedRepoError):
        return f"the {kind} on the hub is gated: accept its terms on its page, and log in ({_LOG_IN})"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such {kind} that can be seen: check the name; a private one needs a login ({_LOG_IN})"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the {kind} on the hub has no such revision"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{_OFFLINE} to ask the hub"
    if isinstance(error, errors.LocalEntryNotFoundError):
        forbidden = _OFFLINE if constants.HF_HUB_OFFLINE else "there is no way"
        return (
            f"it is not in the cache {cache_dir or constants.HF_HUB_CACHE}, and "
            f"{'local_files_only forbids' if local_files_only else forbidden} to ask the hub: download it where there "
            f"is a network (hf download {name}) and bring the cache here, or give the path of a folder"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub denies the right to do this ({status}): log in with a token that has it ({_LOG_IN})"
    if status == 412:
        return "the branch has changed meanwhile: do it again"
    # From the HTTP library, which depends on huggingface_hub's version, or from the disk.
    lines = str(error).strip().splitlines()
    return f"the hub cannot be asked: {lines[0] if lines else type(error).__name__}"
