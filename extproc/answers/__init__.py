"""What an answer's body says of itself: usage, first token, finish reason; and the client's model name put back.

Pure: bytes and times in, bytes and figures out. Nothing here holds an answer up, or fails because of one.
"""

from .figures import Figures, Usage
from .model_values import Restoring
from .reader import AnswerReader
from .shape import Shape, shape

__all__ = ["AnswerReader", "Figures", "Restoring", "Shape", "Usage", "shape"]
