"""What a batch is going to do: which exposures, and why."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..config.model import Config
from ..config.yaml_file import display_name
from ..core.detector import parse_tile
from ..engine.amounts import parse_memory
from ..engine.options import RunOptions
from ..errors import InputError
from ..products.job import prepare
from ..products.memory import choose, exposures_together, layers_of, project
from ..products.provenance import Product
from ..system.processes import cpu_count
from ..system.text import table
from . import manifest
from .campaign import Campaign, check_configurations, load_campaign, only, parse_share, share
from .fingerprint import find_unfinished, product_files
from .folders import doubtful_folders, folders_to_make
from .leftovers import find_leftovers
from .locks import holder, lock_path
from .manifest import History
from .sources import few
from .work import Work

log = logging.getLogger(__name__)

MARGIN = 1.25
"""Over the projected memory of a calibration: what it was at most for sides of 1024 and 2048."""
EXPOSURES = 3
"""Exposures at a time in this process, where memory and `Options.in_flight` allow."""
OWN = ("IN", "OUT", "FITSWCS", "GWCS", "NOISE", "TEMP")
"""Keys of the configuration that may differ between exposures which are calibrated together."""
NOISE = 24
"""Bytes for each pixel of the frame that noise layers take more, measured for the same sides."""


@dataclass(frozen=True)
class Options:
    """What to run of a campaign, and how.

    Attributes
    ----------
    only : tuple of str
        Patterns ``name=value,...``; an exposure that fits one of them is chosen.
    share : str or None
        ``i/n``.
    failed_only, redo : bool
    limit : int or None
    in_flight : int or None
        Exposures at a time.
    scheduler : str
        ``local`` or ``synchronous``, for exposures that run in this process.
    threads : int or None
    tile : str or None
    memory : str or None
        For this process to stay under.
    """

    only: tuple[str, ...] = ()
    share: str | None = None
    failed_only: bool = False
    redo: bool = False
    limit: int | None = None
    in_flight: int | None = None
    scheduler: str = "local"
    threads: int | None = None
    tile: str | None = None
    memory: str | None = None

    def check(self) -> None:
        """Raises `InputError` for values that cannot be."""
        parse_share(self.share)
        parse_tile(self.tile, 4096)
        if self.memory is not None:
            parse_memory(self.memory)
        for name, value in (("limit", self.limit), ("in-flight", self.in_flight)):
            if value is not None and value < 1:
                raise InputError(f"--{name} {value}: expected at least 1")


@dataclass
class Item:
    """An exposure of this batch.

    Attributes
    ----------
    config : Config
    work : Work
    reasons : dict of Product to str
        What has to be made, and why; empty if it is finished.
    by : str
        Who works on it at the moment.
    """

    config: Config
    work: Work
    reasons: dict[Product, str]
    by: str = ""

    @property
    def identity(self) -> str:
        return self.work.identity

    @property
    def why(self) -> str:
        """The reasons in words."""
        if len(set(self.reasons.values())) == 1:
            why = f"{' and '.join(self.reasons)}: {next(iter(self.reasons.values()))}"
        else:
            why = "; ".join(f"{product}: {reason}" for product, reason in self.reasons.items())
        return f"{why} ({self.by} works on it)" if self.by else why


@dataclass
class Plan:
    """What a batch is going to do.

    Attributes
    ----------
    campaign : Campaign
    options : Options
    history : History
        As the manifest was.
    todo, finished, beyond : list of Item
        To run; nothing to do; beyond ``--limit``.
    messy : list of Item
        Not to be run, but something was left of them by processes that were killed.
    left_out : dict of str to int
        Exposures that were not chosen, by the option that left them out.
    new_folders : list of Path
        Of outputs, that are not there and will be made.
    batch : str
        Name of this batch, no other has it.
    """

    campaign: Campaign
    options: Options
    history: History
    todo: list[Item] = field(default_factory=list)
    finished: list[Item] = field(default_factory=list)
    beyond: list[Item] = field(default_factory=list)
    messy: list[Item] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    new_folders: list[Path] = field(default_factory=list)
    batch: str = field(default_factory=lambda: uuid.uuid4().hex)

    def lines(self) -> list[str]:
        """What ``--dry-run`` prints."""
        rows = [("run" if not i.by else "wait", i.identity, i.why) for i in self.todo]
        rows += [("skip", i.identity, "finished") for i in self.finished]
        rows += [("later", i.identity, f"--limit {self.options.limit}") for i in self.beyond]
        counts = f"{len(self.todo)} to run, {len(self.finished)} finished"
        if self.beyond:
            counts += f", {len(self.beyond)} beyond --limit"
        if out := {option: number for option, number in self.left_out.items() if number}:
            why = ", ".join(f"{number} by {option}" for option, number in out.items())
            counts += f", {sum(out.values())} left out ({why})"
        if self.new_folders:
            counts += f"; to be made: {', '.join(few(list(map(display_name, self.new_folders))))}"
        return [*table(("action", "exposure", "why"), rows), counts]


def make_plan(path: Path, options: Options) -> Plan:
    """Find out what there is to do; changes nothing.

    Raises
    ------
    InputError
        If the campaign file, one of its configurations or an option is wrong.
    """
    options.check()
    campaign = load_campaign(path)
    plan = Plan(campaign, options, manifest.read(campaign.manifest))
    mine = share(campaign.entries, *parse_share(options.share))
    log.info("%s: %d of %d exposures", path, len(mine), len(campaign.entries))
    configs = check_configurations(campaign, mine)
    messy = find_leftovers(configs)
    chosen = {entry.identity for entry in only(campaign.entries, options.only)}
    plan.left_out = {"--share": len(campaign.entries) - len(mine), "--only": 0, "--failed-only": 0}
    began = time.time()
    for entry in mine:
        config, last = configs[entry.identity], plan.history.last.get(entry.identity, {})
        products, before = tuple(product_files(config)), plan.history.redo.get(entry.identity)
        work = Work(
            entry.identity,
            entry.settings,
            str(campaign.path),
            str(campaign.manifest),
            share=options.share,
            batch=plan.batch,
            redo=products if options.redo or before is not None else (),
            since=began if options.redo or before is None else before,
            messy=entry.identity in messy,
            unknown=last.get("status") != "done",
            scheduler=options.scheduler,
            threads=options.threads,
            tile=options.tile,
            memory=options.memory,
        )
        item = Item(config, work, {})
        wanted = entry.identity in chosen
        if not wanted:
            plan.left_out["--only"] += 1
        elif options.failed_only and last.get("status") != "failed":
            wanted = False
            plan.left_out["--failed-only"] += 1
        if not (wanted and _goes_on(item, plan)) and work.messy:
            plan.messy.append(item)
    _look_at_folders(plan)
    return plan


def _look_at_folders(plan: Plan) -> None:
    """Folders that exposures will write to: what would let them fail is told now.

    Raises
    ------
    InputError
        If a folder of outputs is not there and cannot be made.
    """
    configs = [item.config for item in plan.todo]
    try:
        plan.new_folders = folders_to_make(configs)
    except InputError as error:
        name = display_name(plan.campaign.path)
        raise InputError(f"{name}: {problem}" for problem in error.problems) from None
    for problem, number in doubtful_folders(configs).items():
        log.warning("%s on this machine; %d exposures need it", problem, number)


def _goes_on(item: Item, plan: Plan) -> bool:
    """Put a chosen exposure where it belongs, and tell whether it will be run."""
    item.reasons, _ = find_unfinished(item.config)
    for product in item.work.redo:
        if product in item.reasons:
            continue
        if plan.options.redo:
            item.reasons[product] = "--redo"
        elif product_files(item.config)[product][0].stat().st_mtime < item.work.since:
            item.reasons[product] = "an earlier --redo did not come to it"
    if not item.reasons:
        plan.finished.append(item)
        return False
    if plan.options.limit is not None and len(plan.todo) >= plan.options.limit:
        plan.beyond.append(item)
        return False
    found = holder(lock_path(item.config.OUT))
    item.by = str(found) if found else ""
    plan.todo.append(item)
    return True


def stacks(items: Sequence[Item], most: int) -> Iterator[list[Item]]:
    """Exposures that are to be calibrated with the same references and settings, `most` at a time;
    each stack when the first of it is due."""
    waiting: dict[str, deque[Item]] = {}
    for item in items:
        waiting.setdefault(_shared(item), deque()).append(item)
    for item in items:
        queue = waiting[_shared(item)]
        if queue and queue[0] is item:
            stacks_left = -(-len(queue) // most)  # as even as can be: 2 and 2, not 3 and 1
            yield [queue.popleft() for _ in range(-(-len(queue) // stacks_left))]


def _shared(item: Item) -> str:
    """Equal for exposures that can be calibrated together."""
    if "l2" not in item.reasons:
        return f"alone {item.identity}"
    return json.dumps({k: v for k, v in item.config.raw.items() if k not in OWN}, default=str)


def require_enough(plan: Plan) -> None:
    """``--memory`` must be enough for the first exposure: the others are much like it.

    Raises
    ------
    InputError
        With numbers.
    """
    options = plan.options
    if options.memory is None or not plan.todo:
        return
    item = plan.todo[0]
    try:
        job = prepare(item.config)
    except InputError:  # that exposure fails by itself
        return
    threads = 1 if options.scheduler == "synchronous" else options.threads or cpu_count()
    tile = None if options.tile is None else parse_tile(options.tile, job.exposure.side)
    for product in item.reasons:
        layers = layers_of(item.config, product)
        choose(job, parse_memory(options.memory), threads, tile, layers)


def needed(plan: Plan, *, here: bool) -> int:
    """Bytes that an exposure takes, or all that are calibrated together in this process (`here`):
    ``--memory``, the most that the manifest knows of, or else a projection.

    0 if it cannot be told.
    """
    if plan.options.memory is not None:
        return int(parse_memory(plan.options.memory))
    peaks = [
        line["peak_memory"]
        for line in plan.history.ended
        if line["status"] == "done" and line.get("products")
    ]
    if peaks or not plan.todo:
        return max(peaks, default=0)
    try:
        job = prepare(plan.todo[0].config)
    except InputError:
        return 0
    options = plan.options
    tile = parse_tile(options.tile, job.exposure.side)
    threads, count = options.threads or cpu_count(), 1
    if here:
        most = min(options.in_flight or EXPOSURES, len(plan.todo))
        given = RunOptions(options.scheduler, options.threads, options.tile)
        count = exposures_together(job, given, most)
    calibration = project(job, tile, threads, exposures=count)
    noise = NOISE * job.exposure.side**2 if job.config.NOISE is not None else 0.0
    return int(MARGIN * calibration + noise)
