"""Streams: endless tokens through a window, with what a method carries along."""

from ltm.streams.memory import StreamMemory
from ltm.streams.stream import Stream
from ltm.streams.window import Past, Window

__all__ = ["Past", "Stream", "StreamMemory", "Window"]
