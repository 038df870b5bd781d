"""Passwords and tokens in URIs are found in every form that SQLAlchemy and MLflow take."""

from __future__ import annotations

import pytest

from cifar_hpo.redaction import has_secret, redacted, redacted_uri

SECRETS = {
    "postgresql://me:SECRET@host/db": "postgresql://me:***@host/db",
    "postgresql+psycopg://me:SEC/RET@host:5432/db": "postgresql+psycopg://me:***@host:5432/db",
    "postgresql://me:SEC@RET@host/db": "postgresql://me:***@host/db",
    "postgresql://me:SEC?RET@host/db": "postgresql://me:***@host/db",
    "mysql://:SECRET@host": "mysql://:***@host",
    "https://me:SECRET@host:5000/a/b": "https://me:***@host:5000/a/b",
    "https://SECRET@host/path": "https://***@host/path",
    "postgresql://host/db?user=me&password=SECRET": "postgresql://host/db?user=me&password=***",
    "postgresql://host/db?password=SECRET&sslmode=require": (
        "postgresql://host/db?password=***&sslmode=require"
    ),
    "mssql+pyodbc://?odbc_connect=DRIVER%3D%7BX%7D%3BPWD%3DSECRET": (
        "mssql+pyodbc://?odbc_connect=***"
    ),
    "http://host/?access_token=SECRET#x": "http://host/?access_token=***#x",
    "can't connect to 'postgresql://me:SECRET@host/db' (timeout)": (
        "can't connect to 'postgresql://me:***@host/db' (timeout)"
    ),
}


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_masked_and_the_rest_stays(text: str) -> None:
    assert has_secret(text)
    assert redacted(text) == SECRETS[text]
    assert redacted(redacted(text)) == redacted(text)
    assert "SEC" not in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me@host/db",
        "sqlite:///mlruns/studies.db",
        "sqlite:////home/me@work/a:b.db",
        "http://127.0.0.1:5000/path@version",
        "http://host:5000",
        "https://host/a@b",
        "databricks://profile",
        "${oc.env:STORE}",
        "model.filters=4:8@x",
        "s3://bucket/a:b@c",
        "",
    ],
)
def test_what_has_no_secret_stays_as_it_is(text: str) -> None:
    assert not has_secret(text)
    assert redacted(text) == text


@pytest.mark.parametrize(
    "text", ["postgresql://me:SE CRET@host/db", "postgresql://me:SE'CRET@host", "https://a b@host"]
)
def test_a_uri_alone_may_have_blanks_and_quotes(text: str) -> None:
    assert has_secret(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:${oc.env:PW}@host/db", False),
        ("postgresql://${oc.env:ME}:${oc.env:PW}@host/db", False),
        ("postgresql://me:${oc.env:PW,SECRET}@host/db", True),
        ("${oc.env:STORE,postgresql://me:SECRET@host/db}", True),
        ("postgresql://me:***@host/db", False),
    ],
)
def test_a_password_that_stands_elsewhere_is_not_spelled_out(text: str, expected: bool) -> None:
    assert has_secret(text) is expected


ENVIRONMENTS = {
    "postgresql://me:SECRETWORD@host/db": 'password "SECRETWORD" is wrong',
    "postgresql://me:SECRET%40WORD@host/db": "no host SECRET@WORD, nor SECRET%40WORD",
    "postgresql://me:SECRET@WORDSECRET/x@host/db": "no host 'WORDSECRET'",
    "mssql+pyodbc://?odbc_connect=DRIVER%3D%7BX%7D%3BPWD%3DSECRETWORD": "login with SECRETWORD",
    "https://SECRETTOKEN@host": "401 for SECRETTOKEN",
}


@pytest.mark.parametrize("uri", ENVIRONMENTS)
def test_a_password_of_the_environment_is_masked_without_its_uri(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORE", uri)
    masked = redacted(ENVIRONMENTS[uri])
    assert "SECRET" not in masked
    assert "***" in masked


def test_variables_that_are_named_for_a_secret_hold_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "letmein-7")
    assert redacted("basic me:letmein-7, not letmein-78") == "basic me:***, not letmein-78"


def test_a_password_that_is_a_word_of_its_uri_masks_no_other_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STORE", "postgresql://postgres:postgres@host/postgres")
    assert redacted("the user postgres of postgresql") == "the user postgres of postgresql"


@pytest.mark.parametrize("password", ["SE'CRET", "SE CRET", "SE<CRET>", 'SE"CRET'])
def test_a_uri_alone_is_masked_whatever_its_password(password: str) -> None:
    assert redacted_uri(f"postgresql://me:{password}@host/db") == "postgresql://me:***@host/db"
    assert redacted_uri("see postgresql://me@host") == "see postgresql://me@host"


@pytest.mark.parametrize("key", ["sig", "X-Amz-Signature", "access_key", "private_key", "passcode"])
def test_keys_of_a_query_that_hold_a_secret(key: str) -> None:
    masked = f"https://host/a?b=1&{key}=***&c=2"
    assert redacted(masked.replace("***", "SECRET")) == masked
