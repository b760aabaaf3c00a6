"""The kernels of an artifact, by the nodes that they run."""

from __future__ import annotations

from burnish.ir.errors import ArtifactError
from burnish.runtime.artifact import Artifact
from burnish.runtime.kernel_files import PLAN_FILE, read_plan
from burnish.runtime.native.launcher import MODULE as NATIVE
from burnish.runtime.plan import Kernel, Launch


def kernels_of(artifact: Artifact) -> dict[str, list[tuple[str, str]]]:
    """For each node of the step graph that kernels run: their functions and sources; nothing where no plan is.

    A node has several where steps of one token, of few rows and of prompts are not by the same. The native ones come
    with burnish: of these it is told what they are given.
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
            if kernel.module == NATIVE:
                text = _given(kernel)
            else:
                name = f"kernels/source/{kernel.module.rpartition('.')[2]}.py"
                if name not in sources:
                    sources[name] = artifact.file(name).read_text(encoding="utf-8")
                text = sources[name]
            pair = (kernel.function, text)
            known = found.setdefault(step.node, [])
            if pair not in known:
                known.append(pair)
    return found


def _given(kernel: Kernel) -> str:
    """The arguments and the constants of a native kernel, a line each."""
    arguments = [f"{name}: {kind}" for name, kind in kernel.arguments.items()]
    return "\n".join([*arguments, *(f"{name} = {value}" for name, value in kernel.constants.items())])
