"""Passwords in source code and settings: what is masked, what stays, and that it comes soon."""

from __future__ import annotations

import time

import pytest

from cifar_hpo.source_redaction import redacted_source

MASKED = {
    "password = 'hunter2secret'": "password = '***'",
    'conf["password"] = "hunter2secret"': 'conf["password"] = "***"',
    '{"api_key": "hunter2secret", "size": 3}': '{"api_key": "***", "size": 3}',
    "login(token=f'hunter2secret', size=3)": "login(token=f'***', size=3)",
    'PASSWORD = """hunter2secret"""': 'PASSWORD = """***"""',
    'password: str = "hunter2secret"': 'password: str = "***"',
    'password: str | None = "hunter2secret"': 'password: str | None = "***"',
    'api_key: str = field(default="hunter2secret")': 'api_key: str = field(default="***")',
    'os.getenv("DB_PASSWORD", "hunter2secret")': 'os.getenv("DB_PASSWORD", "***")',
    'environ.get("TOKEN") or "hunter2secret"': 'environ.get("TOKEN") or "***"',
    'password = "it\'s-a-secret9"': 'password = "***"',
    r'password = "hunter2\"secretmore"': 'password = "***"',
    "password := 'hunter2secret'": "password := '***'",
    "password = rb'hunter2secret'": "password = rb'***'",
    'run(["mysql", "--password=hunter2xyz"])': 'run(["mysql", "--password=***"])',
    'system("export DB_PASSWORD=hunter2xyz")': 'system("export DB_PASSWORD=***")',
    "export AWS_SECRET_ACCESS_KEY=hunter2secret": "export AWS_SECRET_ACCESS_KEY=***",
    "DB_PASSWORD=hunter2xyz && run": "DB_PASSWORD=*** && run",
    "mysql --password=hunter2xyz -u me": "mysql --password=*** -u me",
    "docker run -e API_KEY=hunter2xyz image": "docker run -e API_KEY=*** image",
    "curl --password hunter2secret": "curl --password ***",
    "+  wandb_token: hunter2secret": "+  wandb_token: ***",
    "password: letmein": "password: ***",
    "PASSWORD=letmein": "PASSWORD=***",
    "see ghp_abcdefghijklmnopqrstuvwxyz0123456789": "see ***",
    "AKIAABCDEFGHIJKLMNOP": "***",
    "+-----BEGIN RSA PRIVATE KEY-----\n+MIIEabc\n+x/y=\n+-----END RSA PRIVATE KEY-----\n+x = 1": (
        "+-----BEGIN RSA PRIVATE KEY-----\n+***\n+***\n+-----END RSA PRIVATE KEY-----\n+x = 1"
    ),
    "k = '-----BEGIN PRIVATE KEY-----\\nMIIEabcdefghijklmnopqrst\\n'": (
        "k = '-----BEGIN PRIVATE KEY-----***'"
    ),
}


@pytest.mark.parametrize("text", MASKED)
def test_what_names_and_forms_tell_of_is_masked(text: str) -> None:
    assert redacted_source(text) == MASKED[text]


@pytest.mark.parametrize(
    "text",
    [
        "tokenizer = bert_base",
        "max_tokens = self.max_tokens",
        "num_tokens = 14*14+1",
        "num_tokens=num_patches,",
        'pad_token = "[PAD]"',
        "def forward(cls_token: Tensor, size)",
        "next_token_loss=cross_entropy",
        "password: ${oc.env:PASSWORD}",
        "token = None",
        "token = get_token()",
        "password = os.environ['PASSWORD']",
        'password = getpass("Password: ")',
        'print("token:", token, size=3)',
        "def login(token: str, password: str) -> None:",
        "model.filters = 'sixteen'",
        " if not token:\n     return",
        " if not token:\n     continue",
        "PWD=/home/user/project",
        "hf_transformer_model_for_images",
        "sk-learn-pipeline-with-scaler-and-more",
        'if "-----BEGIN PRIVATE KEY-----" in text:\n    found = True\nx = 1',
    ],
)
def test_what_is_no_password_stays(text: str) -> None:
    assert redacted_source(text) == text


@pytest.mark.parametrize(
    "piece", ["l-1.5-2.3.5-.4c", "-0.1234", "token-", "a-", "password=", "'", '"a']
)
def test_a_line_as_long_as_a_diff_takes_no_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    started = time.monotonic()
    redacted_source(text)
    assert time.monotonic() - started < 10
