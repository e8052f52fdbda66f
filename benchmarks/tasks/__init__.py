"""Every benchmark by its name on the command line."""

from __future__ import annotations

from benchmarks.task import Task
from benchmarks.tasks.choice import MVBench, VideoMME, VideoReferQ, VideoReferQSingle
from benchmarks.tasks.evidence import EvidenceGeneration
from benchmarks.tasks.evidence_mcq import PARTS, EvidenceChoice, EvidenceChoicePart
from benchmarks.tasks.judged import AdversarialProbe, OpenQA, VideoReferD, VideoReferDSingle
from benchmarks.tasks.pixelqa import PixelQA
from benchmarks.tasks.povqa import TVQA, ReasonVQA
from benchmarks.tasks.refer_image import ReasonSeg, RefCLEF, RefCOCO, RefCOCOg, RefCOCOPlus
from benchmarks.tasks.refer_video import GroundMoRe, MeViS, RefDavis17, RefSAV, RefYouTubeVOS, ReVOS
from unipixel.errors import ConfigError, nearest

TASKS: dict[str, Task] = {task.name: task for task in (
    EvidenceGeneration(), EvidenceChoice(), *map(EvidenceChoicePart, PARTS),
    ReVOS(), MeViS(), RefYouTubeVOS(), RefDavis17(), RefSAV(), GroundMoRe(),
    RefCOCO(), RefCOCOPlus(), RefCOCOg(), RefCLEF(), ReasonSeg(),
    VideoReferQ(), VideoReferQSingle(), VideoReferD(), VideoReferDSingle(), *map(PixelQA, ("point", "box", "mix")),
    MVBench(), VideoMME(), TVQA(), ReasonVQA(),
    *(OpenQA(f"{name}-qa", title) for name, title in (("msvd", "MSVD-QA"), ("msrvtt", "MSRVTT-QA"), ("tgif", "TGIF-QA"),
                                                      ("activitynet", "ActivityNet-QA"))),
    AdversarialProbe(),
)}
ALIASES = {"st-evidence": "st-evidence-gen"}


def get_task(name: str) -> Task:
    """Raises :class:`ConfigError` naming the nearest benchmarks."""
    task = TASKS.get(ALIASES.get(name, name))
    if task is None:
        raise ConfigError(f"{name!r} is no benchmark{nearest(name, TASKS)}; `unipixel bench --list` names all")
    return task


__all__ = ["ALIASES", "TASKS", "Task", "get_task"]
