"""From logits to the next token: transformers' processors, in transformers' order.

First what changes scores whether or not there is sampling (repetition penalty, least lengths, forced and suppressed
tokens), then, when sampling, temperature, top-k, top-p and min-p. Everything is one row, float32 [vocabulary].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from burnish.runtime.options import GenerationOptions

_NEVER = float("-inf")
_FIRST_LOOK = 1024  # tokens among which the nucleus of top-p is sought before all are sorted


def penalize_repetition(scores: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Scores of the ids in `seen` divided by `penalty` where positive, else multiplied (Keskar et al., 2019)."""
    chosen = scores[seen]
    return scores.index_put((seen,), torch.where(chosen < 0, chosen * penalty, chosen / penalty))


def forbid(scores: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """Scores without the tokens `ids`."""
    return scores.index_fill(0, torch.tensor(ids), _NEVER)


def force(scores: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """Scores that leave only the tokens `ids`."""
    return torch.full_like(scores, _NEVER).index_fill(0, torch.tensor(ids), 0.0)


Candidates = tuple[torch.Tensor, torch.Tensor]  # scores and ids of the tokens that are still possible


def keep_top_k(candidates: Candidates, count: int) -> Candidates:
    """The `count` best, and what is level with the last of them."""
    scores, ids = candidates
    if count >= len(scores):
        return candidates
    best, places = torch.topk(scores, count)
    level = scores >= best[-1]
    if best[-1] > _NEVER and int(level.sum()) > count:
        places = level.nonzero()[:, 0]
        best, order = torch.sort(scores[places], descending=True)
        places = places[order]
    return best, ids[places]


def keep_top_p(candidates: Candidates, mass: float) -> Candidates:
    """The best that together have the probability `mass` (Holtzman et al., 2019), at least one."""
    scores, ids = candidates
    total = scores.logsumexp(0)
    for count in (min(_FIRST_LOOK, len(scores)), len(scores)):
        best, places = torch.topk(scores, count)
        probability = (best - total).exp()
        above = probability.cumsum(0) - probability  # what the better ones have together
        if count == len(scores) or float(above[-1]) >= mass:
            break
    keep = max(1, int((above < mass).sum()))
    return best[:keep], ids[places[:keep]]


def keep_min_p(candidates: Candidates, share: float) -> Candidates:
    """Those at least `share` times as likely as the best."""
    scores, ids = candidates
    probability = scores.softmax(0)
    keep = probability >= share * probability.max()
    return scores[keep], ids[keep]


class Sampler:
    """Chooses tokens for the rows of a batch."""

    def __init__(self, options: GenerationOptions, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> None:
        """`room`: how many tokens each row can get; the last of them may be a forced one."""
        self._options = options
        self._prompts = [len(prompt) for prompt in prompts]
        self._room = list(room)
        self._new = 0
        self._generator = torch.Generator()
        if options.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(options.seed)
        self._seen: list[torch.Tensor] = []
        if options.repetition_penalty != 1:
            self._seen = [torch.tensor(sorted(set(prompt))) for prompt in prompts]
        self._all: torch.Tensor | None = None  # every id, once it is known how many there are
        self._plain = not options.do_sample and not self._processes()

    def _processes(self) -> bool:
        """Whether anything but temperature, top-k, top-p and min-p touches the scores."""
        options = self._options
        ends = options.eos_token_id and (options.min_length or options.min_new_tokens)
        forced = options.forced_eos_token_id or options.forced_bos_token_id is not None
        suppressed = options.suppress_tokens or options.begin_suppress_tokens
        return bool(self._seen or ends or forced or suppressed)

    def choose(self, logits: torch.Tensor) -> list[int]:
        """The next token of each row, from logits [b, vocabulary]."""
        logits = logits.float()
        if self._plain:
            # numpy: twenty times as fast as torch.argmax on one row
            chosen: list[int] = logits.numpy().argmax(-1).tolist()
        else:
            draws = torch.rand(len(logits), generator=self._generator, dtype=torch.float64)
            chosen = [
                self._choose_row(row, self.process(row, scores), float(draw))
                for row, (scores, draw) in enumerate(zip(logits, draws, strict=True))
            ]
        self._new += 1
        return chosen

    def process(self, row: int, scores: torch.Tensor) -> torch.Tensor:
        """The scores of a row after the processors that apply with and without sampling."""
        options, length = self._options, self._prompts[row] + self._new
        if self._seen:
            scores = penalize_repetition(scores, self._seen[row], float(options.repetition_penalty))
        ends = options.eos_token_id
        if ends and (length < options.min_length or self._new < options.min_new_tokens):
            scores = forbid(scores, ends)
        if options.forced_bos_token_id is not None and length == 1:
            scores = force(scores, [options.forced_bos_token_id])
        if options.forced_eos_token_id and self._new == self._room[row] - 1:
            scores = force(scores, options.forced_eos_token_id)
        if options.suppress_tokens:
            scores = forbid(scores, options.suppress_tokens)
        # Where the first new token is a forced one, what may not begin the text may not be the second.
        first = 1 if options.forced_bos_token_id is not None and self._prompts[row] == 1 else 0
        if options.begin_suppress_tokens and self._new == first:
            scores = forbid(scores, options.begin_suppress_tokens)
        return scores

    def candidates(self, scores: torch.Tensor) -> Candidates:
        """The tokens that sampling chooses from, with their scores."""
        options = self._options
        if options.temperature != 1:
            scores = scores / options.temperature
        if self._all is None:
            self._all = torch.arange(len(scores))
        found: Candidates = (scores, self._all)
        if options.top_k:
            found = keep_top_k(found, options.top_k)
        if options.top_p < 1:
            found = keep_top_p(found, options.top_p)
        if options.min_p:
            found = keep_min_p(found, options.min_p)
        return found

    def _choose_row(self, row: int, scores: torch.Tensor, draw: float) -> int:
        if self._options.do_sample:
            scores, ids = self.candidates(scores)
            heap = scores.double().softmax(0).cumsum(0)
            place = int(torch.searchsorted(heap, draw * heap[-1], right=True))
            token = int(ids[min(place, len(ids) - 1)])
        else:
            token = int(scores.numpy().argmax())
        if self._seen and not bool((self._seen[row] == token).any()):
            self._seen[row] = torch.cat((self._seen[row], torch.tensor([token])))
        return token
