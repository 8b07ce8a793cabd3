# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way back: what was live on a host before, by its history, and the settings that it ran with.

What can be gone back to is a release together with its settings, so that a deployment of nothing but settings has a way back too. The
history names settings by their fingerprint. Copies of them are kept beside the slots' own, for root alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .slots import SLOTS, Layout, contents, copy_directory, fingerprint, is_complete, proven_settings, settings_in, sync_directory

# What the history calls the ways to make something live. A reload does where it brought other settings.
MADE_LIVE = ("rollout", "restart", "rollback", "reload")
# So many of the last settings are kept beside those that the releases of the host last ran with. They hold secrets: not for ever.
KEPT = 5

Entry = dict[str, Any]


class WayBackError(Exception):
    """There is nothing to go back to. The message says why."""


@dataclass(frozen=True)
class State:
    """A release, by its ID, and the fingerprint of its settings. Those that are not known are ''; so are those of no release."""

    release: str = ""
    settings: str = ""

    def is_other(self, than: State) -> bool:
        """Return whether it is certain that this is not the same."""
        return self.release != than.release or (bool(self.settings and than.settings) and self.settings != than.settings)


NOTHING = State()


@dataclass(frozen=True)
class Host:
    """What can still be had on a host: whether a release is complete, and whether settings are kept."""

    complete: Callable[[str], bool]
    kept: Callable[[str], bool]

    def usable(self, state: State, current: State) -> State | None:
        """Return what is left of a state to go back to. Settings that are gone are no reason not to go back to another release."""
        if state.release and not self.complete(state.release):
            return None
        if state.settings and self.kept(state.settings):
            return state
        return State(state.release) if state.release and state.release != current.release else None


def host_of(layout: Layout) -> Host:
    """Return what can still be had on a host."""
    return Host(
        complete=lambda name: is_complete(f"{layout.releases}/{name}"),
        kept=lambda value: bool(find_settings(layout, value)),
    )


def live_state(layout: Layout) -> State:
    """Return what is live: the release in the live slot, and the settings that it was last ready with."""
    live = layout.live_slot()
    if not live:
        return NOTHING
    return State(os.path.basename(layout.release_of(live)), settings_fingerprint(proven_settings(layout, live)))


# The history


def after(entry: Entry) -> State:
    return State(str(entry.get("release", "")), str(entry.get("settings", "")))


def before(entry: Entry) -> State:
    return State(str(entry.get("previous", "")), str(entry.get("previous_settings", "")))


def made_live(entry: Entry) -> bool:
    """Return whether an entry says that something went live."""
    action = entry.get("action")
    return entry.get("result") == "ok" and action in MADE_LIVE and (action != "reload" or bool(entry.get("settings")))


def deployed(entry: Entry) -> bool:
    """Return whether an entry says that something else went live, and not by a way back."""
    return made_live(entry) and entry["action"] != "rollback" and after(entry).is_other(before(entry))


def lived(history: list[Entry]) -> Iterator[State]:
    """Yield what was live, the last first.

    What an entry says of the time before it is among them, because whoever made that live may have been killed before it could write its
    own line.
    """
    for entry in filter(made_live, reversed(history)):
        yield from (after(entry), before(entry))


@dataclass(frozen=True)
class Withdrawn:
    """What was gone back from, by hand or in its bake time, and not deployed again since.

    From one release to another the whole release is; from settings to others of the same release only the two together are.
    """

    releases: frozenset[str]
    states: frozenset[State]

    @classmethod
    def by(cls, history: list[Entry]) -> Withdrawn:
        releases: set[str] = set()
        states: set[State] = set()
        for entry in history:
            new, old = after(entry), before(entry)
            bad = new if entry.get("action") == "flip back" else old if made_live(entry) and entry["action"] == "rollback" else None
            if bad and new.release != old.release:
                releases.add(bad.release)
            elif bad:
                states.add(bad)
            if made_live(entry):
                releases.discard(new.release)
                states.discard(new)
        return cls(frozenset(releases), frozenset(states))

    def __contains__(self, state: State) -> bool:
        return state.release in self.releases or state in self.states


def failed_releases(history: list[Entry]) -> set[str]:
    """Return the IDs of the releases that were tried and never stayed live."""
    tried = {str(entry.get("release", "")) for entry in history if entry.get("action") in ("rollout", "restart", "rollback", "flip back")}
    return tried - {state.release for state in lived(history)}


def previous_state(history: list[Entry], current: State, host: Host) -> State | None:
    """Return what was live before `current`, was not withdrawn and can still be had; None if there is nothing."""
    withdrawn = Withdrawn.by(history)
    for state in lived(history):
        if state != NOTHING and state.is_other(current) and state not in withdrawn:
            found = host.usable(state, current)
            if found:
                return found
    return None


def last_state(history: list[Entry], release: str, current: State, host: Host) -> State:
    """Return a release with the settings that it last ran with, as far as they are known, still kept and were not withdrawn."""
    withdrawn = Withdrawn.by(history).states
    for state in lived(history):
        if state.release == release and state.settings and state not in withdrawn and host.kept(state.settings):
            return state
    return current if current.release == release else State(release)


def standing(history: list[Entry]) -> list[Entry]:
    """Return the deployments that were not gone back from, the oldest first."""
    found: list[Entry] = []
    for entry in filter(made_live, history):
        if entry["action"] == "rollback":
            deeper = [number for number, other in enumerate(found) if not after(other).is_other(after(entry))]
            if deeper:
                del found[deeper[-1] + 1 :]
            else:
                found.append(entry)
        elif deployed(entry):
            found.append(entry)
    return found


def run_in_effect(history: list[Entry], current: State) -> Entry | None:
    """Return the entry of the deployment that made live what is live; None where none says so."""
    last = standing(history)[-1:]
    return last[0] if last and not after(last[0]).is_other(current) else None


def replaced_by(history: list[Entry], run: str, current: State, host: Host) -> tuple[State | None, str]:
    """Return what a run replaced, and is to be live again; or None and why nothing has to be done.

    Raises WayBackError where somebody else has replaced that since, or where it is not to be had any more.
    """
    stand = standing(history)
    if not any(entry.get("run") == run for entry in stand):
        was_live = any(entry.get("run") == run and deployed(entry) for entry in history)
        return None, f"what run {run} made live on this host was rolled back" if was_live else f"run {run} replaced nothing on this host"
    if stand[-1].get("run") != run or after(stand[-1]).is_other(current):
        newer = f"the run of {stand[-1].get('time', '')}" if stand[-1].get("run") in ("", None) else f"run {stand[-1]['run']}"
        if stand[-1].get("run") == run:
            newer = "something that is not in the history"
        raise WayBackError(
            f"what run {run} made live is not live on this host any more: {newer} has replaced it. Roll that back first, or name the "
            "release to go back to (asgi_rollback_to)."
        )
    first = stand[-1]
    for entry in reversed(stand):
        if entry.get("run") != run:
            break
        first = entry
    wanted = before(first)
    found = host.usable(wanted, current) if wanted != NOTHING else None
    if not found:
        what = f"{wanted.release or 'that'} or its settings are not there any more" if wanted != NOTHING else "nothing was live before it"
        raise WayBackError(
            f"what run {run} replaced on this host cannot be made live again: {what}. Name a release to go back to (asgi_rollback_to)."
        )
    return found, ""


# The settings


def settings_fingerprint(directory: str) -> str:
    """Return the value that stands for all settings in a directory, '' where there are none."""
    names = settings_in(directory)
    return fingerprint((name, contents(f"{directory}/{name}")) for name in names) if names else ""


def find_settings(layout: Layout, wanted: str) -> str:
    """Return the directory that has settings with this fingerprint, '' where none has, or not as they were."""
    # That of a slot where there was no room for a copy.
    places = [f"{layout.old_settings}/{wanted}", *map(layout.settings, SLOTS)] if wanted else []
    return next((place for place in places if settings_fingerprint(place) == wanted), "")


def keep_settings(layout: Layout, source: str) -> str:
    """Keep a copy of the settings in a directory; return their fingerprint."""
    value = settings_fingerprint(source)
    if not value or settings_fingerprint(f"{layout.old_settings}/{value}") == value:
        return value
    # There are secrets in them that the application does not have any more.
    os.makedirs(layout.old_settings, mode=0o700, exist_ok=True)
    try:
        copy_directory(source, f"{layout.old_settings}/{value}")
        sync_directory(layout.old_settings)
    except OSError:
        with contextlib.suppress(OSError):
            os.rmdir(layout.old_settings)
        raise
    return value


def needed_settings(history: list[Entry], complete: Callable[[str], bool]) -> set[str]:
    """Return the fingerprints of the settings that a way back may need: the last ones, and the last of each release on the host."""
    found: list[str] = []
    releases: set[str] = set()
    for state in lived(history):
        if not state.settings or (state.release and not complete(state.release)):
            continue
        if state.settings not in found and (len(found) < KEPT or state.release not in releases):
            found.append(state.settings)
        releases.add(state.release)
    return set(found)


def forget_settings(layout: Layout, needed: Iterable[str]) -> None:
    """Remove the kept settings that nothing needs any more."""
    with contextlib.suppress(FileNotFoundError):
        for name in set(os.listdir(layout.old_settings)) - set(needed):
            shutil.rmtree(f"{layout.old_settings}/{name}", ignore_errors=True)
