"""What the footer of a Parquet file says, and whether it is the file that is at fault."""

import pyarrow as pa
import pyarrow.parquet as pq

from workers.storage.objects import Store

PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError)
"""What reading a damaged file raises, and what a disk raises that fails: see `is_damage`."""


def is_damage(error: Exception) -> bool:
    """Whether one of PARQUET_ERRORS is about the format; a disk's own errors have a number."""
    return not isinstance(error, OSError) or error.errno is None


def row_groups(store: Store, uri: str) -> list[int] | None:
    """The rows of each group; only the footer is read. None when the file is damaged."""
    try:
        with store.open(uri) as file:
            footer = pq.ParquetFile(file).metadata
            return [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
    except PARQUET_ERRORS as error:
        if not is_damage(error):
            raise
        return None
