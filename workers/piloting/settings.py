"""What a pilot can be told: all that a labelling run can, how much to try, what hours cost."""

from typing import Self

from pydantic import Field, model_validator

from workers.settings import LabelSettings


class PlanSettings(LabelSettings):
    """Labels a random part of an input, and says what all of it will take.

    python jobs/plan.py --input s3://bucket/in --output s3://bucket/labels --instruction "the mugs"

    What the pilot labels is committed like all else: jobs/label.py with the same settings goes on
    with it, and tells at its end how it compares with the plan. All settings of jobs/label.py hold.
    """

    pilot_shards: int = Field(default=8, ge=2, le=10_000)
    """shards to label, chosen at random; more make the intervals narrower"""
    seed: int = Field(default=0, ge=0)
    """of the choice"""
    replicas: int | None = Field(default=None, ge=1)
    """replicas that the hours are worked out for; without it, --max-replicas or as many as the
    pilot had"""
    price_per_gpu_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """what a GPU costs, in whatever money"""
    price_per_cpu_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """what a CPU of a replica costs, likewise"""

    @model_validator(mode="after")
    def _price_what_is_known(self) -> Self:
        if self.price_per_cpu_hour is not None and self.replica.num_cpus is None:
            raise ValueError("--price-per-cpu-hour: say with --replica.num-cpus how many they are")
        return self
