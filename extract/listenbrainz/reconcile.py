"""Make what is held agree with ListenBrainz: land what was added late, write tombstones for what is gone.

The count of a user's listens is compared first: one request. Where it differs, windows are read again and compared
row by row, the likeliest first, until the counts agree; a few windows that nobody compared for long are read anyhow,
since one listen added and one deleted leave the count as it was. What a batch of windows brought is one load package,
tombstones and the note of what was compared included: after a kill nothing of it counts, and it is read again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import dlt
import pyarrow as pa

from extract.listenbrainz.client import ListenBrainzClient
from extract.listenbrainz.common import BATCH_WINDOWS, SOURCE, client_for, counts_table, verified_of
from extract.listenbrainz.comparison import (
    Balance,
    Checks,
    Verified,
    compare,
    cut,
    order,
    overlay,
    stale,
    until_settled,
    verified_since,
)
from extract.listenbrainz.differences import Change, Known, explain
from extract.listenbrainz.held import HeldListens, Row, Tally, known_name, known_users, unknown_user
from extract.listenbrainz.windows import Interval, split
from extract.pipeline import RAW_CONTRACT, Landed, Landing, dlt_items, landing
from extract.rows import RowBuilder, Rows, canonical, timestamps
from music_pulse.errors import ExternalAPIError, ReconciliationError, UnknownUserError
from music_pulse.listens import ALLOWED_SKEW_S, RefusedListen, validate
from music_pulse.settings import Settings

logger = logging.getLogger(__name__)

COUNT_CACHE_S = 360
"""For how long ListenBrainz may report an old count: 5 minutes, and one for clocks that differ."""

_DELETIONS_S = 3_600
"""For how long its count may have listens that were deleted."""

_DAY_S = 86_400
_UUID = pa.binary(16)

TOMBSTONES_SCHEMA = pa.schema(
    [
        pa.field("user_name", pa.string(), nullable=False),
        pa.field("listened_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("recording_msid", _UUID),
        pa.field("listen_id", _UUID),
        pa.field("payload_hash", _UUID, nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("seen_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""`raw.listen_tombstones` as it is landed; see `extract/raw.sql`."""

Progress = Callable[[str, int], None]
"""Called with (user_name, windows compared)."""


@dataclass
class Reconciled:
    """How one user's reconciliation ended; `error` where it did not."""

    user_name: str
    reported: int | None = None
    held: int = 0
    landed: Landed = field(default_factory=Landed)
    """What was added late, in rows."""
    tombstones: int = 0
    """Rows that are gone: deleted, or edited."""
    windows: int = 0
    """Windows that were compared."""
    requests: int = 0
    note: str = ""
    """Why the counts still differ, where they do."""
    error: ExternalAPIError | ReconciliationError | None = None

    @property
    def difference(self) -> int | None:
        """How many more ListenBrainz reports than are held."""
        return None if self.reported is None else self.reported - self.held

    @property
    def is_changed(self) -> bool:
        """Whether something was landed that the marts should show."""
        return bool(self.landed.listens or self.landed.refused or self.tombstones)


@dataclass
class _Findings:
    """What the windows of one load package told."""

    rows: list[Rows] = field(default_factory=list)
    gone: list[tuple[Row, str]] = field(default_factory=list)
    windows: list[Interval] = field(default_factory=list)


def reconcile_listenbrainz(
    settings: Settings,
    users: Sequence[str] | None,
    *,
    is_full: bool = False,
    interval: Interval | None = None,
    confirm: bool = False,
    progress: Progress = lambda *_: None,
    clock: Callable[[], float] = time.time,
) -> list[Reconciled]:
    """Reconcile `users` (None: all that were ever read); what fails for one does not stop the others.

    `is_full` compares every window; with an `interval` just that is read again, whatever the counts say, also of a
    user who was never read. `confirm` lets more than `settings.reconcile_max_vanished` of a history go.
    """
    done: list[Reconciled] = []
    with client_for(settings) as client, landing(settings, SOURCE) as target:
        target.blocklist.refuse(users or [])
        for name in known_users(target.connection) if users is None else users:
            requests = client.requests
            one = _User(client, target, settings, Reconciled(name), confirm, progress, clock)
            try:
                if interval is not None:
                    one.rescan(interval)
                else:
                    one.reconcile(is_full=is_full)
            except (ExternalAPIError, ReconciliationError) as error:
                if users is None and isinstance(error, UnknownUserError):
                    one.ended.note = str(error)
                else:
                    one.ended.error = error
            one.ended.requests = client.requests - requests
            done.append(one.ended)
    return done


@dlt.source(name=SOURCE)
def reconciliation(user_name: str, reported: int, unexplained: int, findings: _Findings, now: int) -> Any:
    """What was found of one user, and the count that ListenBrainz reports."""

    @dlt.resource(write_disposition="append", schema_contract=RAW_CONTRACT)
    def listens() -> Iterator[Any]:
        state = dlt.current.source_state()
        for rows in findings.rows:
            yield from dlt_items(rows)
        # Saved with the load package: a window counts as compared once what it told is committed.
        verified = verified_of(state, user_name)
        for start, end in findings.windows:
            verified = overlay(verified, Verified(start, end, now))
        state.setdefault("verified", {})[user_name] = [list(piece) for piece in verified]
        state.setdefault("unexplained", {})[user_name] = unexplained

    @dlt.resource(write_disposition="append", schema_contract=RAW_CONTRACT)
    def listen_tombstones() -> Iterator[pa.Table]:
        if findings.gone:
            yield _tombstones_table(findings.gone, now)

    @dlt.resource(write_disposition="append", schema_contract=RAW_CONTRACT)
    def listen_counts() -> Iterator[pa.Table]:
        # With every package: by it the marts know whom to reconcile anew.
        yield counts_table(user_name, reported, now)

    return listens, listen_tombstones, listen_counts


@dataclass
class _User:
    """The reconciliation of one user."""

    client: ListenBrainzClient
    target: Landing
    settings: Settings
    ended: Reconciled
    confirm: bool
    progress: Progress
    clock: Callable[[], float]
    changes: list[Change] = field(default_factory=list)
    """The windows that told something."""

    def reconcile(self, *, is_full: bool) -> None:
        """Compare, land and write down; raises `ExternalAPIError` and `ReconciliationError`."""
        ended, now = self.ended, int(self.clock())
        held, tally, balance = self._begin(now)
        reported = balance.reported
        self._refuse_if_vanished(balance.held, max(balance.held - balance.recent - reported, 0))
        checks = self._checks(held, tally, balance, now, is_full=is_full)
        findings = self._compare_all(until_settled(checks, balance), held, balance, now)
        was_all_compared = bool(checks.windows) and ended.windows == len(checks.windows)
        if was_all_compared or not balance.difference:
            balance.unexplained = balance.difference
        if findings.windows or balance.unexplained != self._unexplained() or not self._is_noted(reported, now):
            self._land(balance, findings, now)
        if ended.windows:
            held.refresh()
            balance.held = held.tally(recent_from=now - COUNT_CACHE_S).listens
        ended.held = balance.held
        if balance.difference:
            ended.note = self._why(held, tally, balance, now, was_all_compared=was_all_compared)

    def rescan(self, interval: Interval) -> None:
        """Compare and land all that was listened to in `interval`; raises as `reconcile` does."""
        now = int(self.clock())
        held, _, balance = self._begin(now)
        self._land(balance, self._compare_all(split(interval), held, balance, now), now)
        held.refresh()
        self.ended.held = held.tally(recent_from=now).listens

    def _begin(self, now: int) -> tuple[HeldListens, Tally, Balance]:
        """Ask for the count, and put it beside what is held."""
        ended = self.ended
        ended.reported = self._listen_count()
        ended.user_name = known_name(self.target.connection, ended.user_name) or self._canonical_name()
        held = HeldListens(self.target.connection, ended.user_name)
        tally = held.tally(recent_from=now - COUNT_CACHE_S)
        recent = tally.recent.listens if tally.recent else 0
        balance = Balance(ended.reported, tally.listens, recent, self._unexplained())
        ended.held = balance.held
        return held, tally, balance

    def _compare_all(self, windows: Iterable[Interval], held: HeldListens, balance: Balance, now: int) -> _Findings:
        """Compare `windows` and land what they tell, batch by batch; return what is still to be landed."""
        ended, before, findings = self.ended, balance.held, _Findings()
        for window in windows:
            self._compare(held, window, balance, findings)
            self._refuse_if_vanished(before, balance.vanished)
            ended.windows += 1
            self.progress(ended.user_name, ended.windows)
            if len(findings.windows) == BATCH_WINDOWS:
                self._land(balance, findings, now)
                findings = _Findings()
        return findings

    def _listen_count(self) -> int:
        name = self.ended.user_name
        try:
            return self.client.listen_count(name)
        except UnknownUserError as error:
            raise unknown_user(self.target.connection, name, error) from None

    def _canonical_name(self) -> str:
        return self.client.bounds(self.ended.user_name).user_name

    def _state(self) -> dict[str, Any]:
        return self.target.state(SOURCE)

    def _unexplained(self) -> int:
        return int(self._state().get("unexplained", {}).get(self.ended.user_name, 0))

    def _checks(self, held: HeldListens, tally: Tally, balance: Balance, now: int, *, is_full: bool) -> Checks:
        """Choose the windows to compare."""
        verified = verified_of(self._state(), self.ended.user_name)
        stale_before = now - round(self.settings.reconcile_fresh_days * _DAY_S)
        is_fresh = tally.span is None or verified_since(tally.span, verified) >= stale_before
        if balance.is_settled and is_fresh and not is_full:
            return Checks([], 0)
        chance = Random()
        times = held.times()
        # Beyond the latest second that ListenBrainz takes, and not the same one twice.
        windows = cut(times, now + ALLOWED_SKEW_S + 1 + chance.randrange(3600), chance)
        if is_full:
            return Checks(windows[::-1], len(windows))
        required = stale(times, verified, stale_before, chance)[: self.settings.reconcile_windows]
        return order(windows, required, verified)

    def _compare(self, held: HeldListens, window: Interval, balance: Balance, findings: _Findings) -> None:
        """Read one window and note what it tells."""
        name, now = self.ended.user_name, self.clock()
        rows = held.rows(window)
        shown: dict[bytes, Hashable] = {}
        builder = RowBuilder(SOURCE, user_name=name, known=frozenset(rows.keys() | held.refused.keys()))
        for page in self.client.pages(name, window):
            for listen in page:
                _, digest = canonical(listen)
                if digest in rows:
                    shown[digest] = rows[digest].listen
                elif digest not in held.refused:
                    shown[digest] = _listen_of(listen, digest, now, name)
                    builder.add(listen)
            if builder.is_full:
                findings.rows.append(builder.take())
        findings.rows.append(builder.take())
        told = compare({digest: row.listen for digest, row in rows.items()}, shown)
        findings.gone += [(rows[digest], "edited" if digest in told.edited else "deleted") for digest in told.gone]
        findings.windows.append(window)
        balance.take(told)
        if told.added or told.lost:
            self.changes.append(Change(window, len(set(shown.values())), told.added, told.lost))

    def _refuse_if_vanished(self, held: int, lost: int) -> None:
        """Don't take it for deleted when most of a history is not shown any more."""
        if self.confirm or lost <= held * self.settings.reconcile_max_vanished:
            return
        name = self.ended.user_name
        what = f"{self.ended.tombstones:,} of them, and no more, were" if self.ended.tombstones else "nothing was"
        raise ReconciliationError(
            f"{lost:,} of {held:,} listens of {name} are gone at ListenBrainz, more than PULSE_RECONCILE_MAX_VANISHED "
            f"allows: {what} deleted here; if it is meant: pulse reconcile --user {name} --confirm"
        )

    def _land(self, balance: Balance, findings: _Findings, now: int) -> None:
        name = self.ended.user_name
        source = reconciliation(name, balance.reported, balance.unexplained, findings, now)
        self.ended.landed += self.target.run(source)
        self.ended.tombstones += len(findings.gone)

    def _why(self, held: HeldListens, tally: Tally, balance: Balance, now: int, *, was_all_compared: bool) -> str:
        """Say which windows still differ, and why."""
        known = Known(
            changes=self.changes,
            recent=tally.recent,
            # Of this second only what others found: our own are among the changes.
            deleted=held.deleted((now - _DELETIONS_S, now if self.ended.tombstones else now + 1)),
            timeless=sum(row is None for row in held.refused.values()),
        )
        verified = verified_of(self._state(), self.ended.user_name)
        return explain(balance.difference, known, verified, compared=self.ended.windows if was_all_compared else 0)

    def _is_noted(self, reported: int, now: int) -> bool:
        """Whether this count was landed within the last minutes: a load would tell nothing new."""
        row = self.target.connection.execute(
            """
            select listen_count = %(reported)s and checked_at >= to_timestamp(%(since)s)
            from raw.listen_counts
            where user_name = %(user)s
            order by checked_at desc, _dlt_load_id collate "C" desc
            limit 1
            """,
            {"reported": reported, "since": now - COUNT_CACHE_S, "user": self.ended.user_name},
        ).fetchone()
        return row == (True,)


def _listen_of(listen: dict[str, Any], digest: bytes, now: float, user_name: str) -> Hashable:
    """Return what `Row.listen` would be, once landed."""
    with suppress(RefusedListen):
        valid = validate(listen, now=now, user_name=user_name)
        return valid.listened_at, valid.recording_msid
    return digest


def _tombstones_table(gone: Sequence[tuple[Row, str]], now: int) -> pa.Table:
    columns = {
        "user_name": [row.user_name for row, _ in gone],
        "listened_at": timestamps([row.second for row, _ in gone]),
        "recording_msid": [row.recording_msid for row, _ in gone],
        "listen_id": [row.listen_id for row, _ in gone],
        "payload_hash": [row.payload_hash for row, _ in gone],
        "reason": [reason for _, reason in gone],
        "seen_at": timestamps([now] * len(gone)),
    }
    return pa.table([columns[name] for name in TOMBSTONES_SCHEMA.names], schema=TOMBSTONES_SCHEMA)
