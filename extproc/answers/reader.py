"""Reads an answer's body as it passes."""

from collections.abc import Sequence

from extproc.body import Piece

from .event_answer import EventAnswer
from .figures import Figures
from .json_answer import JsonAnswer
from .model_values import Restorer, Restoring
from .shape import Shape
from .tally import Tally


class AnswerReader:
    """Reads one answer, fed in pieces of any size; how it is cut changes neither figures nor bytes.

    Without `restore` the bytes are only looked at: `feed` answers None, and `finish` nothing.
    """

    def __init__(self, shape: Shape, restore: Restoring | None = None) -> None:
        self._tally = Tally()
        self._restorer = None if restore is None else Restorer(restore)
        answer = JsonAnswer if shape is Shape.JSON else EventAnswer
        self._answer = answer(self._tally, self._restorer)

    @property
    def restores(self) -> bool:
        """Other bytes may go on than came."""
        return self._restorer is not None

    @property
    def held_bytes(self) -> int:
        """Memory that the answer takes at the moment; bounded, whatever it is."""
        return self._answer.held_bytes

    def feed(self, data: Piece, now: float) -> Sequence[Piece] | None:
        """Takes the next piece of the body, at time `now` (s). Never raises, whatever the bytes are.

        Returns what goes on instead of `data`, which may be nothing (an empty sequence); None: as it came.
        """
        return self._answer.feed(data if type(data) is bytes else bytes(data), now)

    def finish(self, now: float) -> Sequence[Piece]:
        """The end of the body, however it came; called once. Returns what was held back, mostly nothing."""
        self._answer.finish()
        return () if self._restorer is None else self._restorer.finish()

    @property
    def figures(self) -> Figures:
        """What is known so far; of a JSON text only after `finish`."""
        return self._tally.figures
