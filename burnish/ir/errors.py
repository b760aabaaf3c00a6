"""Every error that burnish raises on purpose derives from `BurnishError`.

A message says what was found, where (the node, the module and line of the user's source when there is one), what was
expected and what to do about it.
"""

from __future__ import annotations


class BurnishError(Exception):
    """Base of all errors raised on purpose."""


class InvalidModelError(BurnishError):
    """What was given to compile is not a model that burnish can read."""


class CaptureError(BurnishError):
    """`torch.export` could not trace the model with symbolic batch and sequence sizes."""


class NotCausalError(BurnishError):
    """A position's output depends on a later position, or the analysis cannot prove that it does not."""


class MixedRowsError(BurnishError):
    """A row's output depends on other rows of its batch, or the analysis cannot prove that it does not."""


class UnsupportedError(BurnishError):
    """The graph has an operation that a pass or a backend cannot express."""


class InvalidProgramError(BurnishError):
    """A program broke one of the rules of the language: a bug in a pass."""


class InvalidInputError(BurnishError, ValueError):
    """What was given to a compiled model at run time has the wrong type, shape or values."""


class ArtifactError(BurnishError):
    """An artifact on disk is missing something, was changed, or comes from a newer version."""


class WeightError(BurnishError):
    """A weight is missing, truncated, or of the wrong shape or dtype."""


class ParseError(BurnishError):
    """The text of a program is malformed: which line, what was expected there."""


class UsageError(BurnishError):
    """An option or a combination of options makes no sense."""


class VerificationError(BurnishError):
    """A program does not give the numbers that it should: a bug in burnish, caught before anybody used the result."""


class NativeBuildError(BurnishError):
    """The native kernels could not be built: there is no compiler, or it failed."""
