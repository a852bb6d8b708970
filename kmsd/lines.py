"""What a worker has from its parent, and how it gets there through the zygote."""

from __future__ import annotations

from typing import NamedTuple, Self

import msgspec

from kmsd.zygote import Order

READY = b"ready"
"""What a worker writes once requests are answered."""


class _Text(msgspec.Struct, frozen=True):
    """What stands in the order; the descriptors come beside it, one after the other."""

    number: int
    metrics: bool


class Lines(NamedTuple):
    """Descriptors, by what they are for; of whichever process looks."""

    number: int
    """Names its audit chain."""
    listener: int
    """The listening socket."""
    ready: int
    """To write to: the process id on a line, and `READY` in the end."""
    life: int
    """Reads end-of-file when the parent is gone."""
    text: int
    """Memory file with the configuration (`kmsd.accepted`)."""
    metrics: int | None = None
    """Memory to count in, if anybody wants the figures."""
    tls: tuple[int, ...] = ()
    """Memory files: certificate and key as the parent has read them; empty: plain HTTP."""

    @property
    def order(self) -> Order:
        """As the zygote takes it."""
        metrics = () if self.metrics is None else (self.metrics,)
        descriptors = (self.listener, self.ready, self.life, self.text, *metrics, *self.tls)
        return Order(msgspec.json.encode(_Text(self.number, bool(metrics))), descriptors)

    @classmethod
    def of(cls, order: Order) -> Self:
        """As the worker has them."""
        text = msgspec.json.decode(order.text, type=_Text)
        listener, ready, life, configuration, *rest = order.descriptors
        metrics = rest.pop(0) if text.metrics else None
        return cls(text.number, listener, ready, life, configuration, metrics, tuple(rest))
