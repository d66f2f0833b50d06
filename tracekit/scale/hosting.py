"""What one host of a replay does: makes its part of the plan, starts at the agreed instant, and sends back what it recorded."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pyarrow as pa

from tracekit.errors import TracekitError
from tracekit.redaction import redact
from tracekit.remote import put_segments
from tracekit.replayer.backends import Backends
from tracekit.replayer.checks import check_targets
from tracekit.replayer.columns import STOP
from tracekit.replayer.drive import HostPart, drive
from tracekit.replayer.mapping import parse_rules
from tracekit.replayer.options import ReplayOptions
from tracekit.scale.clock import Offset, drifted, measure
from tracekit.scale.part import PlanPart, part_of
from tracekit.scale.pulse import CHECKING, DRIVING, SENDING, STORING, Vitals
from tracekit.scale.scratch import scratch_directory
from tracekit.scale.wire import CHUNK, Channel, Message, ProtocolError
from tracekit.store.clocks import Clock
from tracekit.store.fingerprint import fingerprint
from tracekit.store.join import Piece, write_pieces
from tracekit.store.manifest import Manifest, read_manifest
from tracekit.store.reader import TraceReader, open_reader
from tracekit.store.remote import remote_path

__all__ = ["SCRATCH", "segments_named", "serve"]

SCRATCH = "tracekit-host-"
"""How the names of the directories begin in which hosts keep what they record until it is sent."""
_ALONE_S = 1.0
"""How long requests may take to end once the coordinator has gone."""
_INSIST_EACH_S = 0.2


def segments_named(trace_id: str) -> str:
    """How the names of the segments of a replay begin: no other trace has such."""
    return f"seg-{trace_id}-"


def serve(channel: Channel, host: str, vitals: Vitals) -> None:
    """Carry out the task that the coordinator at `host` sends. Raises OSError or EOFError if it has gone."""
    _Agent(channel, host, vitals).serve()


@dataclass(slots=True)
class _Agent:
    """The state that the thread that replays and the one that listens share."""

    channel: Channel
    host: str
    vitals: Vitals
    stopped: bool = False
    started: bool = False
    over: threading.Event = field(default_factory=threading.Event)
    inbox: SimpleQueue[Message | None] = field(default_factory=SimpleQueue)

    def serve(self) -> None:
        """Carry out the task that the coordinator sends."""
        threading.Thread(target=self._listen, name="tracekit-listen", daemon=True).start()
        task = self._next("task")
        try:
            with scratch_directory(SCRATCH) as scratch:
                self._replay(task, scratch)
        except KeyboardInterrupt:
            self._fail("it was told to stop before it began")
        except TracekitError as error:
            self._fail(error.message, error.hint)
        except (OSError, EOFError, pa.ArrowException) as error:
            self._fail(str(error))
        self.over.set()

    def _fail(self, message: str, hint: str = "") -> None:
        self.channel.send("failed", message=redact(message), hint=redact(hint))

    def _replay(self, task: Message, scratch: Path) -> None:
        reader = self._open(task, scratch)
        options = ReplayOptions.of(
            {k: tuple(v) if isinstance(v, list) else v for k, v in task["options"].items()}
        )
        rules = parse_rules(options.map)
        part = part_of(reader, rules, options, [(rank, worker) for rank, worker in task["streams"]])
        backends = Backends(options.store_options, roots=rules.local_roots())
        start = _Start(self, (self.host, task["clock_port"]))
        try:
            touched = check_targets(part.plan, backends, options)
            target = scratch / "replay.trace"
            whole, client, wrong = drive(
                part.plan,
                backends,
                options,
                reader,
                target,
                self._watch,
                touched,
                HostPart(
                    task["index"],
                    task["hosts"],
                    start,
                    lambda: self._ended(part.plan.changes and not self.stopped),
                    lambda: self.started,
                ),
            )
        finally:
            self._ended()
            part.plan.shared.header[STOP] = 1
            backends.close()
        wall_ns = time.monotonic_ns() - start.local_ns
        clock = start.ending()
        manifest = Manifest(task["trace_id"], task["epoch_unix_ns"], None, None)
        name = f"{segments_named(task['trace_id'])}h{task['index']:05d}"
        entries = write_pieces(
            _pieces(open_reader(target), part, clock, task["epoch_mono_ns"], self.vitals),
            scratch,
            manifest,
            name=name,
        )
        recorded = [scratch / entry.name for entry in entries]
        if task["out"] is None:
            for file in recorded:
                self._send_file(file)
        else:
            self.vitals.phase = STORING
            put_segments(recorded, remote_path(task["out"]), self.vitals.move)
        self.channel.send(
            "done",
            whole=whole,
            entries=[asdict(entry) for entry in entries],
            client={**asdict(client), "wall_ns": wall_ns},
            wrong=wrong,
            plan=asdict(part.whole),
            offset_ns=clock.offset_ns,
            error_ns=clock.error_ns,
            late_ns=start.late_ns,
            planned=part.plan.ops,
        )
        self._next("bye")

    def _open(self, task: Message, scratch: Path) -> TraceReader:
        """Open the trace of the task where it is, if it is the same there; otherwise have it sent."""
        try:
            reader = open_reader(task["trace"])
            if fingerprint(reader) == task["fingerprint"]:
                return reader
        except TracekitError:
            reader = None  # not here: it is sent
        self.channel.send("lacking")
        folder = scratch / "sent.trace"
        folder.mkdir()
        while (message := self.inbox.get()) is not None and message.kind == "file":
            with (folder / Path(message["name"]).name).open("ab") as file:
                file.write(message.data)
            self.vitals.move()
        if message is None or message.kind != "sent":
            raise KeyboardInterrupt
        sealed = read_manifest(folder) is not None
        return open_reader(folder if sealed else sorted(folder.iterdir()))

    def _send_file(self, file: Path) -> None:
        with file.open("rb") as opened:
            while chunk := opened.read(CHUNK):
                self.channel.send("file", chunk, name=file.name)
                self.vitals.move()

    def _ended(self, changes: bool = False) -> None:
        """Note that the engine has ended, so that nothing interrupts us; after `changes`, the target is asked what it holds."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.vitals.phase = CHECKING if changes else SENDING

    def _watch(self, done: int, planned: int, note: str) -> None:
        self.vitals.done = done

    def wait_for_start(self, offset: Offset) -> int | None:
        """Say that this host is ready; return the agreed start on the coordinator's clock, None if there is none."""
        self.channel.send("ready", offset_ns=offset.offset_ns, error_ns=offset.error_ns)
        while (message := self.inbox.get()) is not None:
            if message.kind == "start":
                return int(message["at_ns"])
            if message.kind == "stop":
                break
        return None

    def _next(self, kind: str) -> Message:
        while (message := self.inbox.get()) is not None:
            if message.kind == kind:
                return message
        raise EOFError("the coordinator has gone")

    def _listen(self) -> None:
        """Pass on what the coordinator says. Once it says stop, or has gone, the replay ends as by Ctrl-C."""
        message: Message | None
        while not self.over.is_set():
            try:
                message = self.channel.receive()
            except (OSError, EOFError, ProtocolError):
                message = None
            self.inbox.put(message)
            if message is None or message.kind == "stop":
                self.stopped = True
                if self.vitals.phase == DRIVING:
                    os.kill(os.getpid(), signal.SIGINT)
                grace_s = _ALONE_S if message is None else message["grace_s"]
                threading.Thread(
                    target=self._insist, args=(grace_s,), name="tracekit-insist", daemon=True
                ).start()
            if message is None:
                return

    def _insist(self, grace_s: float) -> None:
        """Have the engine abandon the requests that are still under way after a while; some engines must be told twice."""
        time.sleep(grace_s)
        while self.vitals.phase == DRIVING:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(_INSIST_EACH_S)


class _Start:
    """The start of the engine: measures the clock, waits for the agreed instant, and measures again at the end."""

    def __init__(self, agent: _Agent, clock: tuple[str, int]) -> None:
        self._agent = agent
        self._clock = clock
        self._offset = Offset(0, 0)
        self.local_ns = 0
        self.late_ns = 0

    def __call__(self, least_ns: int) -> int:
        """Return the agreed start on this host's clock; by how much it had passed already is kept."""
        self._offset = measure(self._clock)
        at = self._agent.wait_for_start(self._offset)
        self._agent.vitals.phase = DRIVING  # from here on, a word to stop interrupts us
        if at is None or self._agent.stopped:
            raise KeyboardInterrupt
        self._agent.started = True
        self.local_ns = at - self._offset.offset_ns
        self.late_ns = max(time.monotonic_ns() - self.local_ns, 0)
        return self.local_ns

    def ending(self) -> Offset:
        """Return the offset with an error that covers the drift since the start."""
        return drifted(self._offset, measure(self._clock))


def _pieces(
    reader: TraceReader, part: PlanPart, clock: Offset, epoch_mono_ns: int, vitals: Vitals
) -> list[Piece]:
    """What this host recorded, with the times and the numbers of ops that all hosts share."""
    manifest = read_manifest(reader.path)
    began = manifest.epoch_mono_ns if manifest is not None else None
    if began is None:
        raise TracekitError(
            f"{reader.path}: the trace of this host states no monotonic epoch", "replay again"
        )
    label = Clock(clock.offset_ns, clock.error_ns, "measured")
    shift = began + clock.offset_ns - epoch_mono_ns

    def numbered(table: pa.Table) -> pa.Table:
        vitals.move()
        index = table.schema.get_field_index("plan_op")
        if index < 0:
            return table
        column = table.column(index)
        given = np.asarray(column.fill_null(-1).to_numpy(), np.int64)
        number = pa.array(part.numbers[np.maximum(given, 0)] if len(part.numbers) else given, mask=given < 0)
        return table.set_column(index, table.field(index), pa.chunked_array([number.cast(column.type)]))

    return [
        Piece(segment, shift + reader.shift_of(segment), label, change=numbered)
        for segment in reader.segments
    ]
