"""A node's part in checkpoints: it writes its Flower state down, and goes back to it.

Where to is for the node to say: ``state-dir`` of its node config, without one the run config's.
In it, ``<run>/<identity>/<node>/<step>.state``: runs of one name do not touch each other's.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from flwr.app import Context, Message, RecordDict

from mfd_flower.checks import ConfigError, Form
from mfd_flower.files import write_bytes
from mfd_flower.records import from_bytes, integer, text, to_bytes

KEEP_STATE, RECALL_STATE = "query.keep", "query.recall"
RUN_NAME = Form(r"[A-Za-z0-9][A-Za-z0-9.-]{0,200}", "letters, digits, dots and hyphens")
IDENTITY = Form(r"[0-9a-f]{16}", "16 hexadecimal digits")


def keep_state(message: Message, context: Context) -> Message:
    """Write the state down as that of a step; the one of the last checkpoint is kept too."""
    folder, step = _asked(message, context)
    before = integer(message.content.config_records["state"], "before")
    write_bytes(folder / f"{step}.state", to_bytes(context.state))
    _keep_only(folder, step, before)
    return Message(RecordDict(), reply_to=message)


def recall_state(message: Message, context: Context) -> Message:
    """Take up the state of a step and drop those of others; step 0 is the state of a new node."""
    folder, step = _asked(message, context)
    state = RecordDict()
    if step:
        path = folder / f"{step}.state"
        try:
            state = from_bytes(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError("state-dir", str(path), f"no such state ({error})") from error
    for name in list(context.state):
        del context.state[name]
    context.state.update(state)
    if not step:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # Those of other nodes, or runs, may be beside them.
            folder.parent.rmdir()
            folder.parent.parent.rmdir()
    _keep_only(folder, step)
    return Message(RecordDict(), reply_to=message)


def _asked(message: Message, context: Context) -> tuple[Path, int]:
    """Return the node's own folder for the run that a message names, and the step."""
    told = message.content.config_records["state"]
    settings = context.run_config.get("state-dir", "")
    where = str(context.node_config.get("state-dir", settings))
    if not Path(where).is_absolute():
        raise ConfigError("state-dir", where, "must be an absolute path, to keep checkpoints in")
    run = RUN_NAME.check("run", text(told, "run"))
    identity = IDENTITY.check("identity", text(told, "identity"))
    # One a node: many nodes on one disk do not look through each other's files.
    node = f"n{context.node_config['partition-id']}"
    return Path(where) / run / identity / node, integer(told, "step")


def _keep_only(folder: Path, *steps: int) -> None:
    for other in folder.glob("*.state"):
        if other.stem not in map(str, steps):
            other.unlink()
