# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replace what an application runs: by a reload, through its idle slot, or by a restart behind its socket.

Everything is derived from what is on the host at that moment: the live link, the units, the settings of each slot. So a run that
was cut off at any point needs no repair of its own; the next one looks again and does the rest.

A slot has its own copy of all that it is started with. What is written for the next start, or was tried in the other slot, cannot
reach it, not even by way of a crash or a reboot.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from . import processes
from .command import CommandError, Surroundings, argv, run_in_unit
from .health import (
    Finding,
    Health,
    kind_of,
    lost_live_slot,
    mend_all,
    replaced_release,
    silence,
    unusable_release,
    working_directory,
)
from .memory import Room, first_to_be_killed
from .pair import SETTINGS as TLS_SETTINGS
from .pair import Pair, PairError
from .readiness import Progress, Target, probe
from .reload import Reload, ReloadError
from .sandbox import helper, sandbox
from .slots import (
    SLOTS,
    UNITS,
    Layout,
    append_history,
    changed_settings,
    contents,
    copy_settings,
    deployer,
    fingerprint,
    install_units,
    is_complete,
    kept_settings,
    listens,
    other,
    proven_settings,
    read_history,
    read_link,
    replace_link,
    sync_directory,
    utc,
)
from .units import Systemd, UnitError
from .wayback import (
    State,
    WayBackError,
    find_settings,
    forget_settings,
    host_of,
    keep_settings,
    last_state,
    live_state,
    needed_settings,
    previous_state,
    replaced_by,
    settings_fingerprint,
)

# systemd's default is 100.
BOOT_WEIGHT = "20"

# The states of a service that serves. It is the second one while somebody's `systemctl reload` runs.
SERVES = ("active", "reloading")


class RolloutError(Exception):
    """What runs was not replaced. `details` go into the result beside the message."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


@dataclass
class Steps:
    """The steps of a rollout and the time that each took. `after` is called with the name of each that is done."""

    clock: Callable[[], float]
    after: Callable[[str], None] = lambda _: None
    done: list[dict[str, Any]] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        begun = self.clock()
        entry: dict[str, Any] = {"step": name, "result": "failed"}
        self.done.append(entry)
        try:
            yield
            entry["result"] = "ok"
        finally:
            entry["seconds"] = round(self.clock() - begun, 3)
        self.after(name)


@dataclass(frozen=True)
class Plan:
    """What is to be done, to which slot, and why. `way` is `nothing`, `settle`, `reload`, `rollout` or `restart`."""

    way: str
    slot: str
    reason: str


class Rollout:
    """One application on one host. Clock, sleep and systemd come from outside, for the tests.

    `params` are the options of the module asgi_rollout. Raises CommandError where one of the commands in them is none.
    """

    def __init__(
        self,
        params: dict[str, Any],
        layout: Layout,
        systemd: Systemd,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        after_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.params = params
        self.layout = layout
        self.systemd = systemd
        self.clock = clock
        self.sleep = sleep
        self.cwd = working_directory
        self.room = Room(layout, systemd)
        self.steps = Steps(clock, after_step)
        self.progress = Progress(workers=1)
        self.action = "rollback" if params["rollback"] else "rollout"
        self.release = params["release"] or ""
        self.reloaded: Reload | None = None
        self.flipped = False
        # Whether the settings are still to be written that this rollout is to bring in. They never are but in check mode.
        self.unwritten = False
        # Raises CommandError for what is none, before anything is done.
        self.hooks = {when: [argv(command) for command in params[when]] for when in ("before_activate", "after_activate")}
        self.commands: list[dict[str, Any]] = []
        self.began = time.time()
        self.warnings: list[str] = []
        # What was not as it had to be around the live slot.
        self.reconciled: list[str] = []
        # In check mode that is still so when the plan is made, and the live link may be missing.
        self.foretells = False
        self.assumed_live = ""
        # Where a rollback goes to. Settings that are not known are ''.
        self.back: State | None = None
        # The fingerprints of the settings that are live, and of those that are to be.
        self.had_settings = self.wanted_settings = ""

    def fresh_progress(self, slot: str) -> Progress:
        return Progress(
            workers=self.params["workers"] or self.layout.workers(slot),
            accepted=frozenset(self.params["ready_status"]),
            successes_wanted=self.params["ready_successes"],
        )

    # What is there

    def live_slot(self) -> str:
        return self.layout.live_slot() or self.assumed_live

    def release_of(self, slot: str) -> str:
        return self.layout.release_of(slot)

    def before(self) -> dict[str, str]:
        live = self.live_slot()
        return {"slot": live, "release": self.release_of(live)}

    def state(self, slot: str) -> dict[str, str]:
        return self.systemd.show(
            self.layout.service_unit(slot),
            "ActiveState,SubState,MainPID,NRestarts,Result",
        )

    def units(self, slot: str) -> tuple[str, str]:
        return self.layout.socket_unit(slot), self.layout.service_unit(slot)

    def running(self, unit: str) -> bool:
        return self.systemd.show(unit, "ActiveState").get("ActiveState") not in ("inactive", "failed")

    def draining(self, slot: str) -> bool:
        return self.systemd.show(self.layout.drain_unit(slot), "ActiveState").get("ActiveState") in ("active", "activating")

    def unsettled(self, live: str) -> list[str]:
        """Return what an interrupted run left to be done around the live slot."""
        idle = other(live)
        left = []
        if not all(map(self.systemd.enabled, self.units(live))):
            left.append(f"slot {live} is not started at boot")
        if any(map(self.systemd.enabled, self.units(idle))):
            left.append(f"idle slot {idle} is started at boot")
        if any(map(self.running, self.units(idle))) and not self.draining(idle):
            left.append(f"idle slot {idle} still runs")
        if others := self.layout.other_tls_units(live):
            left.append(f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} not of slot {live}")
        return left

    def leads_to_live(self) -> bool:
        return read_link(self.layout.live_socket) == f"{self.layout.live}/socket"

    def renewed(self, slot: str) -> bool:
        """Return whether a slot serves TLS with another certificate than the host has now."""
        pair = self.pair(slot)
        return pair is not None and pair.renewed()

    def examine(self) -> list[Finding]:
        """Look at all that a request passes through. Raises RolloutError for what cannot be reconciled here."""
        live = lost_live_slot(self.layout, self.systemd) or self.live_slot()
        health = Health(self.layout, self.systemd, live)
        findings = health.look()
        refused = [finding.refusal() for finding in findings if not finding.mend]
        if refused:
            raise RolloutError("\n".join(refused))
        return findings

    def reconcile(self) -> None:
        """Mend what is not as it has to be around the live slot, before anything else is done. Raises RolloutError where it cannot be."""
        findings = self.examine()
        if findings:
            with self.steps.step("reconcile"):
                try:
                    self.reconciled = mend_all(findings)
                except OSError as error:
                    raise RolloutError(f"{findings[0].what}, and that could not be reconciled: {error}") from None
                left = [finding.what for finding in self.examine()]
                if left:
                    raise RolloutError(f"{'; '.join(left)}, and that could not be reconciled")
        self.see_drop_ins()

    def see_drop_ins(self) -> None:
        live = self.live_slot()
        for path, names in Health(self.layout, self.systemd, live).drop_ins().items():
            if names:
                self.warnings.append(f"{path} sets {', '.join(names)} for slot {live}, which is not what the role asgi_service wrote")

    def silent(self, live: str) -> str:
        """Say why requests are not answered at the socket that nginx connects to, '' if they are."""
        target = Target(self.layout.live_socket, path=self.params["ready_path"], host=self.params["ready_host"])
        unit = self.layout.service_unit(live)
        return silence(live, target, self.fresh_progress(live), lambda: self.systemd.processes(unit), self.sleep)

    def pair(self, slot: str) -> Pair | None:
        return Pair.of_slot(self.layout.app, slot, self.layout.root)

    # What is to be done

    def choose_release(self) -> str:
        """Find what to go back to, where that is asked for; return why nothing has to be done, if so. Raises RolloutError."""
        current = live_state(self.layout)
        self.had_settings = current.settings
        if self.params["rollback"]:
            why = self.find_way_back(current)
            if why:
                return why
        if self.release and not is_complete(self.release):
            raise RolloutError(f"{self.release} is not a complete release. Build it first, with the role asgi_release.")
        self.check_release()
        self.wanted_settings = self.back.settings if self.back else settings_fingerprint(self.layout.next)
        return ""

    def check_release(self) -> None:
        """Raise RolloutError for a release that cannot be started. One that lies elsewhere is the caller's own."""
        unusable = unusable_release(self.release) if os.path.dirname(self.release) == self.layout.releases else ""
        if unusable:
            raise RolloutError(f"{unusable}.")

    def find_way_back(self, current: State) -> str:
        history = read_history(self.layout.history)
        releases = self.layout.releases
        host = host_of(self.layout)
        if self.params["rollback_run"]:
            try:
                self.back, why = replaced_by(history, self.params["rollback_run"], current, host)
            except WayBackError as error:
                raise RolloutError(str(error)) from None
            if why:
                return why
        elif self.release:
            # One that lies elsewhere is the caller's own.
            here = os.path.dirname(self.release) == releases
            self.back = last_state(history, os.path.basename(self.release), current, host) if here else State()
            return ""
        else:
            self.back = previous_state(history, current, host)
            if not self.back:
                raise RolloutError(
                    f"there is no earlier release of {self.layout.app} on this host to go back to from {current.release or 'nothing'}, and "
                    f"no earlier settings: none in {self.layout.history} that was live, was not rolled back itself and is still there"
                )
        if self.back and self.back.release:
            self.release = os.path.join(releases, self.back.release)
        return ""

    def choose_settings(self, slot: str) -> str:
        """Return the directory with the settings that `slot` is to be started with, '' for those that it has.

        The way back never brings settings live that have not been live: those that the release had then, if they are known; otherwise a
        slot that has run it has what it ran with, and for another one those of the live slot are known to be good.
        """
        live = self.live_slot()
        if not self.back:
            return self.layout.next
        good = proven_settings(self.layout, live)
        if self.back.settings:
            own = settings_fingerprint(self.layout.settings(slot)) == self.back.settings
            return "" if own else find_settings(self.layout, self.back.settings) or good
        if slot == live:
            return "" if good == self.layout.settings(live) else good
        kept = self.layout.release_of(slot) == os.path.realpath(self.release) and not os.path.exists(self.layout.unproven(slot))
        return "" if kept else good

    def trouble(self, live: str) -> str:
        """Say why the live slot has to be replaced whatever is wanted, '' if it has not."""
        state = self.state(live)
        if state["ActiveState"] not in SERVES:
            return f"the live slot {live} is {state['ActiveState']}"
        # A socket that was removed by hand does not come back: systemd goes on listening on what no name leads to.
        if not listens(self.layout.socket(live)):
            return f"nobody listens on {self.layout.socket(live)}, which is slot {live}'s"
        if kind_of(self.layout.socket(live)) != "socket":
            return f"{self.layout.socket(live)} is a {kind_of(self.layout.socket(live))}, and not slot {live}'s socket"
        if os.path.exists(self.layout.unproven(live)):
            return f"an earlier run was cut off while it replaced what slot {live} runs"
        foreign = replaced_release(self.layout, live, int(state["MainPID"] or 0), self.cwd)
        return f"slot {live} runs {os.path.basename(foreign)}, and not the release that its link names" if foreign else ""

    def plan(self) -> Plan:
        """Return what has to be done for the live slot to run what is wanted, by the strategy that was asked for."""
        live = self.live_slot()
        strategy: str = self.params["strategy"]
        if not live:
            return Plan("rollout", SLOTS[0], "nothing is live yet")
        same_release = not self.release or os.path.realpath(self.layout.release_link(live)) == os.path.realpath(self.release)
        # The way back brings settings that were live, and none that are new.
        changed = [] if self.params["rollback"] or self.unwritten else changed_settings(self.layout, live)
        other_settings = bool(self.back and self.back.settings and self.back.settings != self.had_settings)
        trouble = self.trouble(live)
        if not same_release:
            reason = "another release"
        elif trouble:
            reason = trouble
        elif self.unwritten:
            reason = f"other settings are to be written to {self.layout.next} first"
        elif changed:
            reason = f"changed since slot {live} was started: {', '.join(changed)}"
        elif other_settings:
            reason = "the settings of before"
        elif not self.params["rollback"] and self.renewed(live):
            reason = "the certificate was renewed"
        elif strategy != "reload" and not (self.foretells and self.reconciled):
            # Whoever asks for a reload gets new workers, which may be the remedy.
            reason = trouble = self.silent(live)
        else:
            reason = ""

        reloadable = same_release and not trouble and not other_settings and all(map(is_server_config, changed))
        reloadable = reloadable and not self.other_workers(live, changed)
        if strategy == "reload":
            if not reloadable:
                raise RolloutError(f"strategy is reload, but {reason}, which takes a new process. Use auto or rollout.")
            return Plan("reload", live, "asked for")
        if not reason:
            left = self.unsettled(live)
            return Plan("settle" if left else "nothing", live, "; ".join(left) or "the live slot runs what is wanted")
        if strategy == "restart":
            return Plan("restart", live, reason)
        if strategy == "auto" and reloadable and not self.unwritten and not self.obstacles(live):
            return Plan("reload", live, reason)
        return Plan("rollout", other(live), reason)

    def other_workers(self, live: str, changed: list[str]) -> bool:
        """Return whether gunicorn would get workers of another class: a master hands over only between those that it knows."""
        name = "gunicorn.conf.py"
        if not any(os.path.basename(path) == name for path in changed):
            return False
        classes = {processes.configured(f"{folder}/{name}", "worker_class") for folder in (self.layout.settings(live), self.layout.next)}
        return len(classes) > 1

    def obstacles(self, live: str) -> list[str]:
        """Return why the live slot cannot be reloaded."""
        server = processes.identify(int(self.state(live)["MainPID"] or 0))
        found = processes.obstacles(server, [], [], [])
        if not processes.children(server.pid):
            found.append("the server runs as a single process")
        # New workers run beside the old ones, in the same slot.
        lacking = self.room.lacking(live, own=True) if self.params["check_memory"] else ""
        if lacking:
            found.append(f"new workers do not fit beside the old ones: {lacking}")
        return found

    # What is done

    def run(self) -> dict[str, Any]:
        """Do what is needed; returns the module's result. Raises RolloutError."""
        self.reconcile()
        before = self.before()
        nothing = self.choose_release()
        self.check_settings(self.layout.next)
        plan = Plan("nothing", before["slot"], nothing) if nothing else self.plan()
        if plan.way == "nothing" and self.reconciled:
            plan = Plan("settle", plan.slot, "; ".join(self.reconciled))
            return self.result(plan, before)
        if plan.way == "nothing":
            return self.result(plan, before)
        self.keep_settings(before["slot"])
        if plan.way == "settle":
            with self.steps.step("settle"):
                self.settle(plan.slot)
            return self.result(plan, before)
        try:
            if plan.way == "reload":
                self.action = "reload"
                self.reload(plan.slot)
            elif plan.way == "restart":
                self.action = "rollback" if self.params["rollback"] else "restart"
                self.restart(plan.slot)
            else:
                self.roll(plan.slot, before)
        except (RolloutError, UnitError, OSError) as error:
            # What is live stays on record as live, even if putting the rest in order failed.
            self.record(before, "ok" if self.flipped else str(error).partition(" The journal of ")[0].partition("\n")[0])
            raise
        self.record(before, "ok")
        return self.result(plan, before)

    def roll(self, slot: str, before: dict[str, str]) -> None:
        """Make the idle slot the live one."""
        with self.steps.step("free"):
            self.free(slot)
        with self.steps.step("memory"):
            self.check_room(before["slot"])
        killed = self.room.watch(before["slot"])
        try:
            self.boot(slot)
            self.run_commands("before_activate", Surroundings.of_slot(self.layout, slot))
            loss = killed()
            if loss:
                raise RolloutError(f"{loss}. What is live may not be lost to what is to replace it.")
            with self.steps.step("enable"):
                # Before the flip: if the power fails between the two, both slots start, and the link still decides.
                self.enable(slot, True)
            with self.steps.step("flip"):
                replace_link(self.layout.live, slot)
                self.room.spare(slot)
        except (CommandError, RolloutError, UnitError, OSError) as error:
            self.take_back(slot, before["slot"])
            if read_link(self.layout.live) == slot:
                # It has been ready and is started at boot. What clients are sent to is not stopped.
                self.flipped = True
                raise RolloutError(
                    f"slot {slot} is live and serves, but that may not outlast a power failure, and it could not be taken back: {error}. "
                    f"See to the disk of {self.layout.slots}, and run this again."
                ) from None
            raise self.abandon(slot, error) from None
        self.flipped = True
        try:
            self.run_commands("after_activate", Surroundings.of_slot(self.layout, slot))
        except CommandError as error:
            if before["slot"]:
                raise RolloutError(f"slot {slot} did not make it: {error}\n{self.flip_back(before['slot'])}") from None
            # What fails here is left to the next run; why there is to be one is more than that.
            with contextlib.suppress(UnitError, OSError):
                self.settle(slot)
            raise RolloutError(f"{error}\nSlot {slot} is live all the same, since nothing was live before it.") from None
        if before["slot"] and self.params["bake_time"]:
            with self.steps.step("bake"):
                self.bake(slot, before["slot"])
        with self.steps.step("settle"):
            self.settle(slot)

    def take_back(self, slot: str, old: str) -> None:
        """Have the live link name `old` again if it names `slot`: the disk may fail when the link is renamed and not yet durable."""
        if read_link(self.layout.live) != slot:
            return
        with contextlib.suppress(OSError):
            if old:
                replace_link(self.layout.live, old)
            else:
                os.unlink(self.layout.live)

    def run_commands(self, when: str, around: Surroundings) -> None:
        """Run the commands of one moment in order. Raises CommandError at the first that fails. The way back runs none."""
        if self.params["rollback"] or not self.hooks[when]:
            return
        with self.steps.step(when.replace("_", " ")):
            for command in self.hooks[when]:
                output = run_in_unit(self.systemd, self.layout, around, command, self.params["command_timeout"])
                self.commands.append({"command": command, "output": output})

    def check_room(self, live: str) -> None:
        """Raise RolloutError if a second slot of the live one's size does not fit under a limit that counts for both."""
        if not live or not self.params["check_memory"]:
            return
        lacking = self.room.lacking(live)
        if lacking:
            raise RolloutError(
                f"a second slot does not fit: {lacking}, use strategy restart (asgi_rollout_strategy), which runs one slot at a time "
                "behind its socket, or switch this check off (asgi_rollout_check_memory)."
            )

    def boot(self, slot: str) -> None:
        """Start `slot` on the wanted release and wait until it is ready; stop it again and raise RolloutError if it is not."""
        layout = self.layout
        with self.steps.step("boot"):
            self.fill(slot)
            # What boots takes all the processors that it can get. Let the live slot have them first.
            self.weigh(slot, BOOT_WEIGHT)
            self.systemd.call("start", layout.socket_unit(slot))
            self.prepare_tls(slot)
            self.systemd.call("start", "--no-block", layout.service_unit(slot))
        with self.steps.step("ready"):
            self.wait_ready(slot)
        # From the file: what systemd shows may be what a run that was cut off has left. Empty is systemd's default.
        own = re.findall(rb"^CPUWeight=(.*)$", contents(layout.unit_file(slot, "service")) or b"", re.MULTILINE)
        self.weigh(slot, own[-1].decode() if own else "")
        self.mark(slot, False)

    def prepare_tls(self, slot: str) -> None:
        """Have systemd listen where a slot is to speak TLS, if it is, and give it the certificate."""
        self.give_certificate(slot)
        for unit in self.layout.tls_sockets(slot):
            try:
                self.systemd.call("start", unit)
            except UnitError as error:
                said = self.systemd.journal(unit, self.began) or str(error)
                raise RolloutError(f"{unit} cannot listen (asgi_service_tls_listen): {said}.") from None

    def give_certificate(self, slot: str) -> None:
        pair = self.pair(slot)
        try:
            if pair:
                pair.install()
        except (PairError, KeyError) as error:
            raise RolloutError(f"{error} (asgi_service_tls_certificate and its neighbours).") from None

    def close_tls(self, live: str) -> None:
        """Listen nowhere but where the live slot speaks TLS. The other slot must not need it any more."""
        units = self.layout.other_tls_units(live)
        if not units:
            return
        self.systemd.call("stop", *units)
        with contextlib.suppress(UnitError):
            self.systemd.call("reset-failed", *units)
        for unit in units:
            os.unlink(f"{self.layout.root}/etc/systemd/system/{unit}")
        self.systemd.call("daemon-reload")
        for slot in SLOTS:
            if slot != live or not self.layout.tls_units(live):
                shutil.rmtree(f"{self.layout.root}/run/{self.layout.app}/tls-{slot}", ignore_errors=True)

    def weigh(self, slot: str, weight: str) -> None:
        """Set the share of the processors that a slot gets when they are short (systemd.resource-control(5)), until it is stopped."""
        # Not every container lets systemd do this, and nothing but speed depends on it.
        with contextlib.suppress(UnitError):
            self.systemd.call("set-property", "--runtime", self.layout.service_unit(slot), f"CPUWeight={weight}")

    def abandon(self, slot: str, error: Exception) -> RolloutError:
        """Stop the slot that did not make it, and return the error that says why."""
        journal = self.journal(slot)
        with contextlib.suppress(UnitError, OSError):
            self.stop(slot)
        with contextlib.suppress(UnitError):
            # It is told here. A unit that stays failed would have a monitor tell it again, of a slot that nobody needs.
            self.systemd.call("reset-failed", self.layout.service_unit(slot))
        with contextlib.suppress(UnitError, OSError):
            self.enable(slot, False)
        with contextlib.suppress(UnitError, OSError):
            self.close_tls(self.live_slot())
        kept = self.kept()
        if isinstance(error, CommandError):
            # The slot was ready: what the command wrote is what tells the reason.
            return RolloutError(f"slot {slot} did not make it: {error}\n{kept}")
        return RolloutError(self.explain(slot, f"{sentence(error)} {kept}", journal), journal=journal)

    def kept(self) -> str:
        """Say what a rollout that failed has left live."""
        live = self.live_slot()
        if not live:
            return "Nothing was live before, and nothing is now."
        # Which may be why it was to be replaced.
        defect = self.defect(live)
        return f"Slot {live} is live as before, but it does not serve: {defect}." if defect else "The live slot serves on as before."

    def defect(self, slot: str) -> str:
        """Return why a slot does not serve, '' if it does."""
        state = self.state(slot)["ActiveState"]
        if state not in SERVES:
            return f"it is {state}"
        return "" if listens(self.layout.socket(slot)) else f"nobody listens on {self.layout.socket(slot)}"

    def what_serves(self) -> str:
        """Say what is live after a way back that failed. Never raises: there is something else to be told as well."""
        try:
            live = self.live_slot()
            defect = self.defect(live) if live else ""
        except (UnitError, OSError) as error:
            return f"What serves now cannot be told: {sentence(error)}"
        if not live:
            return "Nothing is live."
        return f"Slot {live} is live, but it does not serve: {defect}." if defect else f"Slot {live} is live and serves."

    def mark(self, slot: str, on: bool) -> None:
        """Note on disk that a slot is being given something that it has not been ready with, or that this is over."""
        path = self.layout.unproven(slot)
        if on:
            # Whoever was cut off in the middle of it has noted what was there before. A link and an empty file also find room on a disk
            # that is full, which a way back may be for.
            if not os.path.exists(path):
                self.note_release(slot)
            with open(path, "wb"):
                pass
        else:
            for gone in (path, self.layout.release_before(slot)):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(gone)
        sync_directory(os.path.dirname(path))

    def note_release(self, slot: str) -> None:
        link, release = self.layout.release_before(slot), self.release_of(slot)
        if release:
            replace_link(link, os.path.relpath(release, os.path.dirname(link)))
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(link)

    def proven_release(self, slot: str) -> str:
        """Return the release that a slot was last ready with, as far as it is known and still there."""
        noted = os.path.realpath(self.layout.release_before(slot))
        return noted if os.path.exists(self.layout.unproven(slot)) and is_complete(noted) else self.release_of(slot)

    def fill(self, slot: str) -> None:
        """Put the wanted release and its settings into a slot. Only ever done to a slot that does not run, but for a restart."""
        settings = self.choose_settings(slot)
        # Whoever was cut off in here may have installed the units and not told systemd.
        cut_off = os.path.exists(self.layout.unproven(slot))
        self.mark(slot, True)
        self.point(slot, self.release)
        if cut_off:
            self.systemd.call("daemon-reload")
        if settings:
            self.give_settings(settings, slot)
        elif install_units(self.layout, slot):
            # The units for TLS are those of both slots.
            self.systemd.call("daemon-reload")

    def give_settings(self, settings: str, slot: str) -> None:
        if copy_settings(settings, self.layout, slot):
            self.systemd.call("daemon-reload")
        if settings == self.layout.next:
            # Once more: they may have been written between the first look and the copy.
            self.check_settings(self.layout.settings(slot))

    def check_settings(self, directory: str) -> None:
        """Raise RolloutError if the settings are not those that the run wrote which asks for this rollout.

        Whoever deploys at the same time writes them to the same place, before it finds the lock taken and fails.
        """
        if not self.has_settings(directory):
            raise RolloutError(
                f"the settings in {self.layout.next} are not those that this run wrote: another deployment has written its own since. "
                "What is live has not been changed. Run this one again when the other one is over."
            )

    def has_settings(self, directory: str) -> bool:
        """Return whether the settings in a directory are those that the run wrote which asks for this rollout, if it wrote any."""
        wanted = self.params["settings"]
        if not wanted or wanted["directory"] != self.layout.next or self.params["rollback"]:
            return True
        return fingerprint((name, contents(f"{directory}/{name}")) for name in wanted["names"]) == wanted["fingerprint"]

    def point(self, slot: str, release: str) -> None:
        link = self.layout.release_link(slot)
        if release:
            replace_link(link, os.path.relpath(release, os.path.dirname(link)))
        if read_link(self.layout.socket_link(slot)) != self.layout.socket(slot):
            replace_link(self.layout.socket_link(slot), self.layout.socket(slot))

    def has_units(self, slot: str) -> bool:
        """Return whether a slot has ever been filled. Of units without a file systemctl does not even say that they are stopped."""
        return all(os.path.exists(self.layout.unit_file(slot, kind)) for kind in UNITS)

    def restore_units(self, slot: str) -> None:
        """Install the units of a slot that somebody has removed: without its file a unit can neither be disabled nor be stopped."""
        filled = all(os.path.isfile(f"{self.layout.settings(slot)}/{kind}") for kind in UNITS)
        if filled and not self.has_units(slot) and install_units(self.layout, slot):
            self.systemd.call("daemon-reload")

    def free(self, slot: str) -> None:
        """Stop whatever runs in the idle slot, after an earlier drain had its time. The way back does not wait: what is live is no good."""
        self.restore_units(slot)
        deadline = self.clock() + self.params["drain_timeout"] + 5
        while self.draining(slot) and self.clock() < deadline and not self.params["rollback"]:
            self.sleep(0.2)
        if self.draining(slot):
            # It has more time than it was given here. Left alone, it would later stop what is about to be started here.
            self.systemd.call("stop", self.layout.drain_unit(slot))
        self.stop(slot)
        # Forget an earlier failure, or its rate limit would refuse this start (systemd.unit(5), StartLimitBurst=).
        with contextlib.suppress(UnitError):
            self.systemd.call("reset-failed", self.layout.socket_unit(slot), self.layout.service_unit(slot))

    def stop(self, slot: str) -> None:
        if not self.has_units(slot):
            return
        # The socket first, or a connection that comes in between would start the service again.
        self.systemd.call("stop", self.layout.socket_unit(slot), self.layout.service_unit(slot))

    def wait_ready(self, slot: str) -> None:
        """Return when all workers of `slot` are ready; raise RolloutError when that cannot be or takes too long."""
        deadline = self.clock() + self.params["boot_timeout"]
        self.progress = self.fresh_progress(slot)
        while True:
            state = self.state(slot)
            if crashed(state):
                raise RolloutError(f"its process ended while it booted{result_of(state)}.")
            remaining = deadline - self.clock()
            if remaining <= 0:
                raise RolloutError(f"{self.params['boot_timeout']} s are over (boot_timeout); {self.progress.summary()}.")
            if state["MainPID"] not in ("", "0"):
                pids = self.systemd.processes(self.layout.service_unit(slot))
                if slot != self.live_slot():
                    first_to_be_killed(pids)
                self.progress.forget(pids)
                for answer in probe(self.target(slot), self.progress, min(5.0, max(0.5, remaining)), pids):
                    self.progress.note(answer)
                # The unit asks for itself whether it is ready, a moment later.
                if self.progress.complete and state["ActiveState"] in SERVES:
                    return
            self.sleep(0.1)

    def target(self, slot: str) -> Target:
        return Target(self.layout.socket(slot), path=self.params["ready_path"], host=self.params["ready_host"])

    def bake(self, slot: str, old: str) -> None:
        """Watch the new slot while the old one is kept warm. Three bad answers in a row, or a crash, flip back."""
        until = self.clock() + self.params["bake_time"]
        bad = 0
        # A server starts another worker so soon that the ready check does not see it.
        proven = set() if self.layout.recycles(slot) else set(self.progress.ready)
        while self.clock() < until:
            state = self.state(slot)
            pids = self.systemd.processes(self.layout.service_unit(slot))
            answer = self.target(slot).ask(5, pids)
            bad = 0 if self.progress.expected(answer) else bad + 1
            ended = sorted(proven.difference(pids)) if pids else []
            if crashed(state) or ended or bad >= 3:
                what = f"the ready check failed: {answer.summary()}"
                if ended:
                    what = f"a worker ended that had been ready (process {', '.join(map(str, ended))})"
                if crashed(state):
                    what = f"its process ended{result_of(state)}"
                journal = self.journal(slot)
                message = self.explain(slot, f"in its bake time {what}. {self.flip_back(old)}", journal)
                raise RolloutError(message, journal=journal)
            self.sleep(0.5)

    def flip_back(self, old: str) -> str:
        """Make the old slot live again; returns what became of that, for the message that says why. Never raises for what fails in it."""
        failed = ""
        try:
            self.mark(other(old), True)
            with self.steps.step("flip back"):
                if self.state(old)["ActiveState"] not in SERVES:
                    self.systemd.call("start", self.layout.socket_unit(old), self.layout.service_unit(old))
                self.enable(old, True)
                replace_link(self.layout.live, old)
                self.settle(old)
        except (UnitError, OSError) as error:
            failed = sentence(error)
        if read_link(self.layout.live) != old:
            # On record the new release is live, as it is: a way back is to lead away from it, and not to it.
            return f"Slot {old} could not be made live again: {failed} {self.what_serves()}"
        self.action = "flip back"
        self.flipped = False
        if failed:
            return f"Slot {old} is live again, but what is left could not be put in order: {failed} The next run does that."
        return f"Slot {old} is live again."

    def restart(self, slot: str) -> None:
        """Replace the process in the live slot. Its socket stays, so whoever connects in the meantime waits and is not refused.

        Unless the socket's unit has changed, which says nothing to a socket that is open.
        """
        before = self.proven_release(slot)
        # The texts of the unit that the socket was opened with. Which one a run used that was cut off is not known.
        opened = {contents(self.layout.unit_file(slot, "socket"))}
        if os.path.exists(self.layout.unproven(slot)):
            opened.add(None)
        try:
            self.run_commands("before_activate", Surroundings.of_next(self.layout, self.release))
        except CommandError as error:
            raise RolloutError(f"nothing was restarted: {error}") from None
        with kept_settings(self.layout, slot) as kept:
            try:
                with self.steps.step("restart"):
                    self.fill(slot)
                    self.prepare_tls(slot)
                    self.restart_service(slot, opened)
                with self.steps.step("ready"):
                    self.wait_ready(slot)
                self.run_commands("after_activate", Surroundings.of_slot(self.layout, slot))
            except (CommandError, RolloutError, UnitError, OSError) as error:
                journal = self.journal(slot)
                outcome = "The slot was started again on what it ran before."
                try:
                    with self.steps.step("restart the old release"):
                        self.point(slot, before)
                        self.give_settings(kept, slot)
                        self.restart_service(slot, opened)
                        self.close_tls(slot)
                        self.mark(slot, False)
                except (UnitError, OSError) as failed:
                    # It keeps its mark, so the next run knows what it ran before.
                    outcome = f"It could not be started again on what it ran before: {sentence(failed)} {self.what_serves()}"
                raise RolloutError(self.explain(slot, f"{sentence(error)} {outcome}", journal), journal=journal) from None
            # While the copy is whole: with the mark it counts as that.
            self.mark(slot, False)
        with self.steps.step("settle"):
            self.settle(slot)

    def restart_service(self, slot: str, opened: set[bytes | None]) -> None:
        """Start a slot's service anew, and its socket where that was opened with another text of its unit than there is now."""
        with contextlib.suppress(UnitError):
            self.systemd.call("reset-failed", self.layout.service_unit(slot))
        opened.add(contents(self.layout.unit_file(slot, "socket")))
        # The socket stays, and with it whoever waits there, unless nobody can come to it any more. Of the two systemd stops the service
        # first and starts it last, since it needs the socket: that is away for no longer than it takes to open it.
        keep = len(opened) == 1 and listens(self.layout.socket(slot))
        self.systemd.call("restart", *([self.layout.service_unit(slot)] if keep else self.units(slot)))

    def reload(self, slot: str) -> None:
        """Have the live slot's server replace its workers, with its configuration as it is wanted now."""
        obstacles = self.obstacles(slot)
        if obstacles:
            raise RolloutError(f"a reload cannot do this job: {'; '.join(obstacles)}. Use strategy auto or rollout.")
        master = int(self.state(slot)["MainPID"])
        changed = changed_settings(self.layout, slot)
        self.progress = self.fresh_progress(slot)
        self.reloaded = Reload(
            master=master,
            target=self.target(slot),
            main_pid=lambda: int(self.state(slot)["MainPID"] or 0),
            progress=self.progress,
            timeout=self.params["boot_timeout"],
        )
        with kept_settings(self.layout, slot) as kept:
            self.mark(slot, True)
            try:
                if changed:
                    self.give_settings(self.layout.next, slot)
                self.give_certificate(slot)
            except (OSError, RolloutError, UnitError) as error:
                if changed:
                    self.give_settings(kept, slot)
                self.mark(slot, False)
                raise RolloutError(f"nothing was reloaded, and slot {slot} serves on as before: {error}") from None
            try:
                with self.steps.step("reload"):
                    self.reloaded.run()
            except ReloadError as error:
                journal = self.journal(slot)
                if changed:
                    self.give_settings(kept, slot)
                    with contextlib.suppress(OSError):
                        # Or it would go on trying with the new ones, which the next start of it would not find.
                        os.kill(master, self.reloaded.signal)
                self.mark(slot, False)
                raise RolloutError(self.explain(slot, f"{error}. The old workers serve on.", journal), journal=journal) from None
            self.mark(slot, False)

    def enable(self, slot: str, on: bool) -> None:
        # Without a reload: only the next boot reads this.
        verb = "enable" if on else "disable"
        self.systemd.call("--quiet", "--no-reload", verb, self.layout.service_unit(slot), self.layout.socket_unit(slot))

    def settle(self, live: str) -> None:
        """Make the boot agree with the live link, and let the other slot drain and stop."""
        idle = other(live)
        self.enable(live, True)
        if not self.leads_to_live():
            # As at boot, by systemd-tmpfiles: somebody has removed it, or whoever was to make it was killed just before.
            os.makedirs(os.path.dirname(self.layout.live_socket), mode=0o755, exist_ok=True)
            replace_link(self.layout.live_socket, f"{self.layout.live}/socket")
        self.restore_units(idle)
        if self.has_units(idle):
            self.enable(idle, False)
        if self.layout.other_tls_units(live):
            # The port may be another program's from now on, as nginx's: it is free when nobody has its socket any more.
            if self.draining(idle):
                self.systemd.call("stop", self.layout.drain_unit(idle))
            self.stop(idle)
            self.close_tls(live)
        if not self.running(self.layout.service_unit(idle)):
            self.stop(idle)
        elif not self.draining(idle):
            self.drain(idle)

    def drain(self, slot: str) -> None:
        """Start a unit that waits until no connection to `slot` is left, or the time is over, and then stops it.

        /proc/self/net/unix lists an accepted connection under the name of the listening socket with state 03 (SS_CONNECTED), and one
        that still waits in the queue with 02 (SS_CONNECTING); so nothing that a client has sent is overlooked.
        """
        sock = self.layout.socket(slot).replace(".", r"\.")
        wait = (
            f"i=0; while [ $i -lt {self.params['drain_timeout'] * 5} ] && grep -q ' 0001 0[23] .* {sock}$' /proc/self/net/unix; "
            "do sleep 0.2; i=$((i+1)); done"
        )
        # Its own network would have no connections. Whose they are that come by TLS is seen in the processes of the application's user.
        changes: dict[str, str | None] = {"PrivateNetwork": None}
        if self.layout.tls_ports(slot):
            wait = shlex.join(
                [
                    *helper(self.layout.app, "drain"),
                    f"--pid={self.state(slot)['MainPID']}",
                    f"--socket={self.layout.socket(slot)}",
                    f"--ports={','.join(map(str, self.layout.tls_ports(slot)))}",
                    f"--timeout={self.params['drain_timeout']}",
                ]
            )
            changes["CapabilityBoundingSet"] = "CAP_DAC_READ_SEARCH CAP_SYS_PTRACE"
        script = f"{wait}; exec systemctl stop {self.layout.socket_unit(slot)} {self.layout.service_unit(slot)}"
        command = ["systemd-run", "--quiet", "--collect", f"--unit={self.layout.drain_unit(slot)}"]
        command += [f"--property={directive}" for directive in sandbox(changes)]
        # systemd would put its own variables in for a single dollar sign (systemd.service(5)).
        command += [f"--description={self.layout.app}: drain and stop slot {slot}", "/bin/sh", "-c", script.replace("$", "$$")]
        self.systemd.run(command)

    # What is reported

    def journal(self, slot: str) -> str:
        """Return the end of a slot's journal. Never raises: it is read while there still is something to be put in order."""
        try:
            # By time: a service that systemd has started once more is another invocation of it.
            return self.systemd.journal(self.layout.service_unit(slot), self.began)
        except Exception as error:
            return f"(it cannot be read: {error})"

    def explain(self, slot: str, what: str, journal: str) -> str:
        return f"slot {slot} did not make it: {what} The journal of {self.layout.service_unit(slot)} ends with:\n{journal}"

    def record(self, before: dict[str, str], result: str) -> None:
        """Append one line to the application's history: when, who, what, from what, how long, with which result."""
        release = self.release or before["release"]
        entry = {
            "time": utc(self.began),
            "user": deployer(self.params["user"]),
            "action": self.action,
            "release": os.path.basename(release),
            "previous": os.path.basename(before["release"]),
            "settings": settings_fingerprint(self.layout.settings(self.live_slot())) if result == "ok" else self.wanted_settings,
            "previous_settings": self.had_settings,
            "run": self.params["run"],
            "seconds": round(time.time() - self.began, 2),
            "result": result,
        }
        try:
            append_history(self.layout.history, entry)
            if result == "ok":
                forget_settings(self.layout, needed_settings(read_history(self.layout.history), host_of(self.layout).complete))
        except OSError as error:
            # No reason to fail what has succeeded, nor to hide why something failed.
            self.warnings.append(f"this deployment is missing in {self.layout.history}: {error}")

    def keep_settings(self, live: str) -> None:
        """Keep what the live slot runs with, for the way back."""
        try:
            if live:
                keep_settings(self.layout, proven_settings(self.layout, live))
        except OSError as error:
            # The disk may be full, and this run what makes room.
            self.warnings.append(f"the settings of slot {live} could not be kept, so a rollback may not find them: {error}")

    def result(self, plan: Plan, before: dict[str, str], after: dict[str, str] | None = None) -> dict[str, Any]:
        after = after or self.before()
        return {
            "changed": plan.way != "nothing",
            "way": plan.way,
            "slot": after["slot"],
            "release": after["release"],
            "previous": before,
            "reason": plan.reason,
            "reconciled": self.reconciled,
            "diff": {"before": diff_text(before), "after": diff_text(after)},
            **self.report(),
        }

    def report(self) -> dict[str, Any]:
        """What is worth knowing however it ended."""
        if not self.steps.done:
            return {}
        found = {"steps": self.steps.done, "attempts": self.progress.attempts, "answer": self.progress.last.summary()}
        if self.commands:
            found["commands"] = self.commands
        if self.reloaded:
            found.update(old_pids=self.reloaded.old, new_pids=self.reloaded.new)
        return found

    def preview(self) -> dict[str, Any]:
        """Return what run() would report, without doing it.

        In check mode no settings have been written either, but it is known whether they would be. What they do to the live slot is not,
        so no reload is promised for them.
        """
        self.foretells = True
        self.assumed_live = lost_live_slot(self.layout, self.systemd)
        self.reconciled = [finding.what for finding in self.examine()]
        self.see_drop_ins()
        before = self.before()
        self.unwritten = not self.has_settings(self.layout.next)
        nothing = self.choose_release() if self.params["rollback"] else ""
        # It may not have been built.
        if self.release and is_complete(self.release):
            self.check_release()
        plan = Plan("nothing", before["slot"], nothing) if nothing else self.plan()
        if plan.way == "nothing" and self.reconciled:
            plan = Plan("settle", plan.slot, "; ".join(self.reconciled))
        release = before["release"] if plan.way in ("nothing", "settle", "reload") else self.release
        return self.result(plan, before, {"slot": plan.slot, "release": release})


def is_server_config(path: str) -> bool:
    """Return whether a reload makes the server read this file again, or what it names."""
    return os.path.basename(path) in ("gunicorn.conf.py", TLS_SETTINGS)


def sentence(error: Exception) -> str:
    """Return an error's message with a full stop, for another sentence to follow. Not all of them are sentences."""
    return f"{str(error).removesuffix('.')}."


def crashed(state: dict[str, str]) -> bool:
    """Return whether a unit's process has ended since it was started, by what systemd shows of it."""
    return state["ActiveState"] == "failed" or state["NRestarts"] not in ("", "0") or state["SubState"].startswith("auto-restart")


def result_of(state: dict[str, str]) -> str:
    """Return how a unit's process has ended, in brackets; nothing where systemd has started the next one and forgotten."""
    return f" ({state['Result']})" if state["Result"] not in ("", "success") else ""


def diff_text(what: dict[str, str]) -> str:
    return f"live slot: {what['slot'] or '-'}\nrelease: {os.path.basename(what['release']) or '-'}\n"
