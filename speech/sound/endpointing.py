"""Endpointing: how much silence ends an utterance, adapted to the pauses that the speaker makes."""

from __future__ import annotations

from dataclasses import dataclass

_MEAN_GAIN = 1 / 8
_DEVIATION_GAIN = 1 / 4
_DEVIATIONS = 4


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """Bounds of the silence that ends an utterance.

    Attributes:
        min_delay: Seconds of silence that end an utterance at the earliest.
        max_delay: Seconds of silence that end it at the latest; the same as `min_delay` turns the learning off.
        first_delay: Seconds of silence that end it as long as the speaker has made no pause.
        shortest_pause: Silences of fewer seconds are no pauses: stops close the mouth for that long inside words.

    Raises:
        ValueError: If the values do not fit together.
    """

    min_delay: float = 0.5
    max_delay: float = 1.2
    first_delay: float = 0.7
    shortest_pause: float = 0.15

    def __post_init__(self) -> None:
        if not 0 < self.min_delay <= self.max_delay:
            raise ValueError(
                f"need 0 < min_delay <= max_delay, not min_delay={self.min_delay}, max_delay={self.max_delay}; "
                "use 0.5 and 1.2 seconds"
            )
        if self.first_delay <= 0:
            raise ValueError(f"first_delay must be positive seconds, not {self.first_delay}; use 0.7")
        if not 0 <= self.shortest_pause < self.max_delay:
            raise ValueError(
                f"shortest_pause={self.shortest_pause} must lie between 0 and max_delay={self.max_delay}; use 0.15"
            )


class Endpointing:
    """The endpoint delay of one speaker: mean plus four mean deviations of the pauses, within the limits.

    The rule is that of TCP for the time after which an answer counts as lost (Jacobson 1988, "Congestion avoidance and
    control"; RFC 6298): exponential means, of the pauses with gain 1/8 and of their distance from the mean with gain
    1/4. Both cost a number of memory and follow a speaker who tires, and four deviations leave few pauses outside.

    Args:
        options: The limits.
    """

    def __init__(self, options: EndpointOptions | None = None) -> None:
        self.options = options or EndpointOptions()
        self._mean: float | None = None
        self._deviation = 0.0

    @property
    def delay(self) -> float:
        """Seconds of silence after which the speaker is taken to have finished."""
        options = self.options
        delay = options.first_delay if self._mean is None else self._mean + _DEVIATIONS * self._deviation
        return min(options.max_delay, max(options.min_delay, delay))

    def resumed(self, pause: float) -> None:
        """The speaker went on after `pause` seconds of silence, whether or not that was taken for the end.

        More than `max_delay` seconds are no pause inside an utterance, and nothing is learnt from them.
        """
        if not self.options.shortest_pause <= pause <= self.options.max_delay:
            return
        if self._mean is None:
            self._mean, self._deviation = pause, pause / 2  # RFC 6298, section 2.2
        else:
            self._deviation += _DEVIATION_GAIN * (abs(pause - self._mean) - self._deviation)
            self._mean += _MEAN_GAIN * (pause - self._mean)
