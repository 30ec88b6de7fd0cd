"""Names, passwords and tokens in URIs are never shown."""

from __future__ import annotations

import pytest

from orch_core.formatting import without_credentials

CASES = {
    "http://ann:s3cret@host:5000/x": "http://***@host:5000/x",
    "https://s3cret@host": "https://***@host",
    "postgresql+psycopg2://ann:s3cret@db/orch": "postgresql+psycopg2://***@db/orch",
    "http://ann:p@s3cret@host/": "http://***@host/",
    "error at http://ann:s3cret@host/a, then 's3://k:s3cret@b'": "error at http://***@host/a, then 's3://***@b'",
    "mssql://host/db?user=a&password=s3cret&x=1": "mssql://host/db?user=a&password=***&x=1",
    "http://host/?access_token=s3cret": "http://host/?access_token=***",
    "http://h/?X-Amz-Signature=s3cret&n=2": "http://h/?X-Amz-Signature=***&n=2",
}


@pytest.mark.parametrize("text", CASES)
def test_credentials_are_replaced(text: str) -> None:
    shown = without_credentials(text)
    assert shown == CASES[text]
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    "text",
    ["sqlite:////a/b c/mlflow.db", "http://host:5000", "ann@host.org", "loss=2.3", "file:///x?y#z", "a@b:c"],
)
def test_everything_else_stays(text: str) -> None:
    assert without_credentials(text) == text
