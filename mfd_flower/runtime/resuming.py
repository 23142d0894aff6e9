"""A run that keeps checkpoints, and goes on from the last one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from flwr.serverapp.strategy import Strategy

from mfd_flower.config import RunConfig
from mfd_flower.records import part_of
from mfd_flower.runtime.checkpoints import Checkpoints
from mfd_flower.runtime.coded_grid import CodedGrid
from mfd_flower.runtime.curve import Curve
from mfd_flower.runtime.mailbox import Mailbox, NodeStateError
from mfd_flower.runtime.metered_grid import MeteredGrid
from mfd_flower.runtime.replies import LISTS
from mfd_flower.runtime.run_files import RunFiles
from mfd_flower.runtime.strategy_state import begin_behind, has_flowers_loop, load_state, state_of
from mfd_flower.strategy import build_strategy

Say = Callable[[str], None]


class Resumable:
    """Keeps checkpoints of one run on `mailbox`'s engine as `files` say."""

    def __init__(
        self,
        files: RunFiles,
        run: RunConfig,
        strategy: Strategy,
        mailbox: Mailbox,
        outermost: MeteredGrid | CodedGrid,
        meter: MeteredGrid,
        curve: Curve,
    ) -> None:
        self._files, self._run, self._strategy = files, run, strategy
        self._mailbox, self._grid, self._meter, self._curve = mailbox, outermost, meter, curve
        self._checkpoints = Checkpoints(files.own_checkpoints, run.flat())
        self._fresh = build_strategy(run)
        self._last = 0

    def begin(self, say: Say) -> int:
        """Take up the last checkpoint, or begin anew; returns how many steps were done before."""
        identity = self._checkpoints.identity
        begun = self._files.resume and identity
        kept = self._checkpoints.load() if begun else None
        if begun and kept is None:
            strategy = type(self._strategy).__name__
            can = hasattr(self._strategy, "state_dict") or has_flowers_loop(self._strategy)
            say(f"begins again, no checkpoint{'' if can else f': {strategy} has no state_dict'}")
        if kept is None:
            self._checkpoints.begin()
            # Nodes drop what an earlier start, if there was one, let them keep.
            identity = identity or self._checkpoints.identity
            self._mailbox.recall_states(self._files.name, identity, {})
            return 0
        with self._checkpoints.reading():
            load_state(self._strategy, part_of(kept.parts, "strategy"))
            self._grid.load_state_dict(part_of(kept.parts, "meter"))
            for name in LISTS:
                getattr(self._meter, name)[:] = kept.log[name]
            self._curve.load_state_dict(part_of(kept.parts, "curve"), kept.log)
        self._mailbox.recall_states(self._files.name, identity, kept.states)
        say(f"goes on behind step {self._curve.points[-1]['step']}")
        if has_flowers_loop(self._strategy):
            begin_behind(self._strategy, kept.done)
        self._last = kept.done
        return kept.done

    def step_done(self) -> None:
        """Keep a checkpoint if one is due; it is left out if nodes do not answer."""
        # A walk's steps go back where the holder of a model dies: what counts is what was measured.
        done = len(self._curve.points) - 1
        if not (every := self._files.checkpoint_every) or done < self._last + every:
            return
        self._last = done
        if not self._mailbox.settle() or (state := state_of(self._strategy, self._fresh)) is None:
            return
        try:
            self._mailbox.keep_states(self._files.name, self._checkpoints.identity, done)
        except NodeStateError:
            return
        parts = {
            "strategy": state,
            "meter": self._grid.state_dict(),
            "curve": self._curve.state_dict(),
        }
        lists = {name: getattr(self._meter, name) for name in LISTS} | self._curve.lists()
        self._checkpoints.save(done, self._mailbox.kept, parts, lists)

    def end(self) -> None:
        """Drop the checkpoints, on the nodes too if they answer."""
        with contextlib.suppress(NodeStateError):
            self._mailbox.recall_states(self._files.name, self._checkpoints.identity, {})
        self._files.drop_checkpoints()
