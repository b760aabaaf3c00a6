"""The kernels of an artifact for GPUs, by the nodes that they run."""

from __future__ import annotations

from burnish.ir.errors import ArtifactError
from burnish.runtime.artifact import Artifact
from burnish.runtime.kernel_files import PLAN_FILE, read_plan
from burnish.runtime.plan import Launch


def kernels_of(artifact: Artifact) -> dict[str, list[tuple[str, str]]]:
    """For each node of the step graph that kernels run: their functions and sources; nothing of one for CPUs.

    A node has several where steps of one token, of few rows and of prompts are not by the same.
    """
    if not artifact.has(PLAN_FILE):
        return {}
    plan = read_plan(artifact)
    found: dict[str, list[tuple[str, str]]] = {}
    sources: dict[str, str] = {}
    for variant in plan.variants:
        for step in variant.all_steps:
            if not isinstance(step, Launch):
                continue
            kernel = plan.kernels.get(step.kernel)
            if kernel is None:
                raise ArtifactError(f"{PLAN_FILE} in {artifact.path} launches {step.kernel}, which it does not have")
            name = f"kernels/source/{kernel.module.rpartition('.')[2]}.py"
            if name not in sources:
                sources[name] = artifact.file(name).read_text(encoding="utf-8")
            pair = (kernel.function, sources[name])
            known = found.setdefault(step.node, [])
            if pair not in known:
                known.append(pair)
    return found
