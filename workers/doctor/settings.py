"""What the doctor can be told: flags only, named as those of the jobs that it looks ahead to."""

from typing import Annotated

from pydantic import AfterValidator, Field
from typing_extensions import TypeAliasType

from workers.settings_places import Place
from workers.settings_sources import FlagSettings
from workers.storage.uris import shown

URL = TypeAliasType("URL", str)


def _address(text: str) -> str:
    """Of the dashboard; its token comes from RAY_AUTH_TOKEN."""
    if not text.startswith(("http://", "https://")) or "@" in text:
        raise ValueError(f"{shown(text)} is no address such as http://head:8265")
    return text.rstrip("/")


class DoctorSettings(FlagSettings):
    """Says what would keep a labelling job from working here, and what to do about it.

    python jobs/doctor.py --input s3://bucket/in --output s3://bucket/out --model s3://bucket/model
    """

    input: Place | None = None
    """what is to be labelled: is it there, and may it be read"""
    output: Place | None = None
    """where labels are to go: a small object is written there, and removed again"""
    model: Place | None = None
    """model folder or s3://bucket/prefix; without it, the small model that comes with the project.
    Of a model in a bucket only the small files and the headers of the large ones are read"""
    queue_url: URL | None = None
    """address of the SQS queue that `jobs/watch.py` is to hear from"""
    address: Annotated[URL, AfterValidator(_address)] | None = None
    """dashboard of the Ray cluster, such as http://head:8265; without it, where RAY_ADDRESS points
    to if that is an http address, else this machine's own"""
    as_json: bool = Field(default=False, alias="json")
    """print the findings as JSON, a line each, instead of a table"""
