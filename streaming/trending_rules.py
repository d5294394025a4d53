"""What a trending window is: the numbers that the job, the recomputation in dbt and the tests share."""

from __future__ import annotations

from dataclasses import dataclass

from music_pulse.errors import ConfigurationError
from music_pulse.settings import Settings


@dataclass(frozen=True)
class TrendingRules:
    """Windows [start, start + window), one every slide; minutes unless named otherwise.

    Raises `ConfigurationError` for windows that slides don't fill.
    """

    window_minutes: int = 5
    slide_minutes: int = 1
    watermark_minutes: int = 10
    listens_per_user: int = 5
    """More listens of one user to one track (or artist) in one window don't count."""
    clock_ahead_seconds: int = 60
    """A listen further ahead of its broker timestamp has a wrong clock and doesn't count."""

    def __post_init__(self) -> None:
        if self.window_minutes % self.slide_minutes:
            raise ConfigurationError(
                f"PULSE_TRENDING_WINDOW_MINUTES ({self.window_minutes}) must be a multiple of "
                f"PULSE_TRENDING_SLIDE_MINUTES ({self.slide_minutes})"
            )

    @classmethod
    def from_settings(cls, settings: Settings) -> TrendingRules:
        """Take the rules of the settings."""
        return cls(
            window_minutes=settings.trending_window_minutes,
            slide_minutes=settings.trending_slide_minutes,
            watermark_minutes=settings.trending_watermark_minutes,
            listens_per_user=settings.trending_listens_per_user,
            clock_ahead_seconds=settings.trending_clock_ahead_seconds,
        )

    @property
    def block_slides(self) -> int:
        """How many windows are counted from one row of state (see `transforms.recent_listens`)."""
        return 4 * self.window_minutes // self.slide_minutes
