"""Text and JSON values are shown without the secrets in them."""

from __future__ import annotations

import itertools
import shlex
from typing import Any

import pytest

from tracekit.redaction import redact, redact_value

SECRET = "s3cr3tXYZ"
TEXTS = [
    # options of a command, quoted in every way of a shell
    "train --api-key @", "train --token=@ x", "--password '@'", "--password '@ and @'", '--api-key="@ @"',
    "run --hf-token  @", "--client_secret\n'@'", "--password '@", '--password "a\\"@"', "--password=a,@",
    "--password a;@", "--token 'x'\"@\"", "--credentials @", "-password @", "curl -u bob:@ x", "--user=bob:@",
    # assignments and settings
    "AWS_SECRET_ACCESS_KEY=@ run", "DB_PASSWORD=a,@ run", "DB_PASS=@", "password2=@", "my_password = @",
    "AccountKey=@;EndpointSuffix=x", "env API_TOKEN='@' run", "password='a b @'", "password=\"it's @\"",
    "password:@", "token => '@'", "client_secret=@&sas_token=@", "AccountName=a;AccountKey=@==;EndpointSuffix=x",
    'credentials="@"', "token=['a @']",
    # Python and JSON, also inside a JSON text
    '{"secret_access_key": "@"}', "{'token': '@'}", "'password': u'@ @'", '{\\"token\\": \\"@\\"}',
    # headers, tags, URLs
    "Authorization: Bearer @", "curl -H 'Authorization: @'", "-H 'Authorization: Basic @'", "-H 'X-Api-Key: @'",
    '--header "x-api-key:@"', 'Authorization: Digest username="x", response="@"', "Authorization: AWS id:@",
    "Cookie: a=1; s=@", "x-amz-security-token: @", "x-amz-server-side-encryption-customer-key: @", "Bearer @",
    "<AWSAccessKeyId>@</AWSAccessKeyId>", "<Password type='x'>@</Password>", "fetch https://h/p?a=b&sig=@ now",
    "GET https://u:@@h/p", "https://h/p?token='@'",
    # a name in place of a value
    "token: --password @", "password= token=@", "Authorization: x-amz-security-token: @",
]  # fmt: skip
JOINTS = [" ", "; ", ", ", "\n", " && ", "&", "|"]


def planted(template: str) -> str:
    return template.replace("@", SECRET, 1) if "@@" in template else template.replace("@", SECRET)


@pytest.mark.parametrize("template", TEXTS)
def test_a_text_is_shown_without_its_secret(template: str) -> None:
    assert SECRET not in redact(planted(template))


def test_two_texts_side_by_side_are_shown_without_their_secrets() -> None:
    for first, joint, second in itertools.product(TEXTS, JOINTS, TEXTS):
        text = planted(first) + joint + planted(second)
        assert SECRET not in redact(text), text


@pytest.mark.parametrize(
    "secret",
    ["AKIAIOSFODNN7EXAMPLE", "ASIAABCDEFGHIJKLMNOP", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
     "hf_abcdefghijklmnopqrstuvwxyz", "ghp_0123456789abcdefghij0123456789abcdef"],
)  # fmt: skip
def test_keys_of_a_known_shape_are_masked_without_a_name(secret: str) -> None:
    assert redact(f"rejected {secret} at once") == "rejected *** at once"


@pytest.mark.parametrize(
    "text",
    ["no valid credentials: run az login", "secret santa", "tokens per second: 5", "s3://bucket/key@v2",
     "/data/a?b#c", "the signature does not match", "key: 7", "sort_key=uri", "max_tokens=512", "tokenizer=gpt2",
     "docker run -u 1000:1000 image", "first-pass: 3", "train.py --token", "region=us-east-1, bucket=b",
     "python train.py --lr 3 --data /d"],
)  # fmt: skip
def test_text_without_a_secret_is_left_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("template", TEXTS)
def test_what_was_redacted_is_not_redacted_further(template: str) -> None:
    once = redact(planted(template))
    assert redact(once) == once


def test_what_stands_beside_a_secret_stays_readable() -> None:
    assert redact("train --token=x --epochs 3") == "train --token=*** --epochs 3"
    assert (
        redact("AccountName=a;AccountKey=b;EndpointSuffix=c")
        == "AccountName=a;AccountKey=***;EndpointSuffix=c"
    )
    assert redact("curl -H 'X-Api-Key: x' https://h/p") == "curl -H 'X-Api-Key: ***' https://h/p"


@pytest.mark.parametrize(
    "value",
    [{"token": SECRET}, {"token": [SECRET, {"a": SECRET}]}, {"API-KEY": {"value": SECRET}}, {"credentials": (SECRET,)},
     ["run", "--api-key", SECRET], ["-H", f"Authorization: Bearer {SECRET}"], {f"token={SECRET}": 1},
     [{"nested": [["--password", SECRET]]}]],
)  # fmt: skip
def test_a_value_is_stored_without_its_secret(value: Any) -> None:
    assert SECRET not in str(redact_value(value))


def test_values_that_are_not_secret_keep_their_types() -> None:
    options = {"batch": 3, "rate": 0.5, "on": True, "none": None, "token": "", "nested": [{"a": [1, "x"]}]}
    assert redact_value(options) == options


@pytest.mark.parametrize(
    "piece",
    ["_", "a-", "--token ", "'", '\\"', "password=a,", "authorization ", "<token ", "token:", "--token=",
     "cookie: ", "'cookie: ", "s3://a", "a://b@", "eyJ-"],
)  # fmt: skip
def test_long_texts_are_scanned_once(piece: str) -> None:
    """With time that grows as the square of the length, this would take minutes."""
    assert redact(piece * (400_000 // len(piece)))


MORE = [
    # options of particular programs
    "curl -ubob:@ x", "curl -su bob:@ x", "curl -U bob:@ x", "curl -x bob:@@proxy:80 y", "--pass @", "--pass=@",
    "sshpass -p @ ssh h", "sshpass -p'@ @' ssh h", "mysql -h h -p@ db", "redis-cli -h h -a @ get x", "openssl -passin pass:@ x",
    "keytool -storepass @ -keypass @", "curl --oauth2-bearer @", "http --auth bob:@ x", "machine h login u password @", "-HAuthorization: Bearer @",
    # settings
    "PGPASSWORD=@ psql", "MYSQL_PWD=@", "PASS=@ x", '{"pass": "@"}', "token_value=@", "password-b64=@",
    "HTTPS_PROXY=bob:@@proxy:80 x", "--proxy bob:@@proxy:80", "ALL_PROXY=socks5://bob:@@proxy:80",
    # as URLs encode it
    "https%3A%2F%2Fh%2Fp%3Fsv%3D1%26sig%3D@", "X-Amz-Signature%3D@", "%26SIG%3D@", "%22token%22%3A%22@%22", "token%253D@",
    "SV=2020&SE=x&SIG=@",
    # connections
    "SharedAccessSignature=sv=2020&sig=@", "Server=h;User Id=a;Password=@;", "postgres://u:a/@@h/db", "redis://:p#@@h/0",
    "mongodb://u:@@h1,h2/db", "s3://AKIAIOSFODNN7EXAMPLE:wJalrX/@/bPx@bucket/key",
    # keys
    "-----BEGIN RSA PRIVATE KEY-----\n@\n-----END RSA PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\\n@\\n",
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n@",
]  # fmt: skip


@pytest.mark.parametrize("template", MORE)
def test_another_programs_spelling_of_a_secret_is_masked(template: str) -> None:
    text = template.replace("@", SECRET, 1) if template.startswith("s3:") else planted(template)
    once = redact(text)
    assert SECRET not in once
    assert redact(once) == once
    assert SECRET not in str(redact_value(["run", text, {"option": text}]))
    assert SECRET not in redact(f"a {text}\n--token x"), text


@pytest.mark.parametrize(
    "words",
    [["curl", "-u", "bob:a @"], ["run", "--token=a @"], ["env", "DB_PASSWORD=a @", "run"], ["curl", "--proxy-user", "bob:a @"]],
)  # fmt: skip
def test_an_element_of_a_command_line_is_masked_with_its_blanks(words: list[str]) -> None:
    assert SECRET not in str(redact_value([word.replace("@", SECRET) for word in words]))


@pytest.mark.parametrize(
    "secret",
    ["sk-proj-0123456789abcdefghij", "AIzaSyA0123456789abcdefghijklmnopqrstuv", "npm_0123456789abcdefghijklmnop",
     "hvs.CAESI0123456789abcdef", "ya29.a0AfH6SMBx0123456789", "IQoJb3JpZ2luX2VjEXAMPLE0123456789/+=",
     "A1b2" * 21 + "A1=="],
)  # fmt: skip
def test_tokens_of_services_are_masked_without_a_name(secret: str) -> None:
    assert redact(f"rejected {secret} at once") == "rejected *** at once"


def test_a_login_in_base64_is_masked() -> None:
    assert redact("got Basic dXNlcjpwYXNzd29yZDEy back") == "got Basic *** back"


@pytest.mark.parametrize(
    "text",
    ["/etc/passwd: no such trace", "/etc/passwd: line 1 has 7 columns", "my/password: No such file or directory",
     "token: Permission denied", "the secret: Is a directory", "pass 3 of 5", "Basic Authentication is off", "the bearer of it",
     "mysql -p db", "python -u train.py --at 3:4", "--proxy h:3128", "http://[::1]:9000/a@b", "s3://bucket/a:b@c",
     "http://h:9000/a@b", "npm_config_registry=x", "task-01234567890123456789"],
)  # fmt: skip
def test_what_messages_say_of_files_is_no_secret(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "piece",
    ["a://b:c", "mysql -p", "mysql ", "redis-cli ", "proxy=a:", "proxy ", "-u a", "-----BEGIN PRIVATE KEY-----",
     "basic A", "token%3d", "A" * 90, "hvs.", "token: no"],
)  # fmt: skip
def test_long_texts_of_other_programs_are_scanned_once(piece: str) -> None:
    """With time that grows as the square of the length, this would take minutes."""
    assert redact(piece * (100_000 // len(piece)))


PROGRAMS = [
    "ldapsearch -x -D cn=a -w @ -b dc=x", "ldapadd -w@ -f a.ldif", "ldapmodify -xw '@ @' -H ldap://h",
    "/usr/bin/ldapwhoami -w @", "mc alias set s3 https://h:9000 @ x", "mc alias set s3 https://h:9000 x @",
    "mc alias set s3 http://h @ @ --api S3v4", "mc --json alias set s3 http://h *** @", "mc config host add s3 http://h x @",
    "smbclient //h/s -U user%@", "smbclient -Uuser%@ //h/s", "smbclient //h/s --user=d/user%@", "rpcclient -U 'user%@ @' h",
    "sqlplus scott/@@host", "sqlplus -s scott/@", "sqlplus 'scott/@@//h:1521/x'", "sqlldr userid=scott/@ control=a.ctl",
    "sqlplus -L scott/@ @run.sql", "sshpass -p @ ssh h", "sshpass -p@ ssh h", "sshpass -v -p @ ssh -p 22 h",
    "sshpass -P ask -p @ ssh h", "mysql -P 3306 -p@", "mysql -P3306 -uroot -p@ db", "mysqldump -h h -p'@' db",
    "ldappasswd -x -D cn=a -w x -a @ -s b", "ldappasswd -xs @ cn=a", "ldappasswd -a x -s '@ @'", "mysql -vp@", "mysql -h h -Np'@' db",
    "smbclient //h/s @", "smbclient -L x //h/s @ -c ls", "smbclient '//h/s' '@ @'", "smbclient \\\\\\\\h\\\\s @",
    "redis-cli -h h -a @ ping", "tool --key @1", "tool --key=@1", "tool --key '@1'", "tool --key abc/DEF/0123456789/abcdefg/@",
    "https://h/b?X-Goog-Signature=@", "X-Goog-Signature=@", "sig=@", "AccountKey=@", "SharedAccessSignature=@",
    "Proxy-Authorization: Basic @",
]  # fmt: skip


@pytest.mark.parametrize("template", PROGRAMS)
def test_a_secret_that_only_its_program_explains_is_masked(template: str) -> None:
    text = planted(template.replace("@run", "%run")).replace("%run", "@run")
    once = redact(text)
    assert SECRET in text
    assert SECRET not in once
    assert redact(once) == once
    if ": " not in template:  # a header in two arguments is none
        assert SECRET not in str(redact_value(shlex.split(text))), text


@pytest.mark.parametrize(
    "text",
    ["tool --key-file keys/client1.pem", "etcdctl get --keys-only", "pytest -w 10", "ping -w 10 h", "ssh -p 8080 h",
     "docker run -p 8080:80 x", "ls -a /data", "docker run -u root x", "rsync -a dir/a user@host:dir/b",
     "scp user/dir@host x", "git clone git@host:user/repo.git", "mysql -P3306 db", "mysql -P 3306 -p db",
     "ldapsearch -x -W -b dc=x", "sshpass -e ssh -p 2222 h", "sshpass -f file ssh -p 2222 h", "sqlplus / as sysdba",
     "sqlplus /nolog", "ldapsearch -x -s base -a never", "smbclient //h/s -c ls", "smbclient //h/s: not found", "mysql -h host -vP 3306 db",
     "sqlplus scott@host @dir/run.sql", "sqlplus scott@host < dir/run.sql", "smbclient -U user //h/s",
     "mc alias list s3", "mc cp a/b s3/c", "mc alias set s3 http://h && ls", "tool --key 12345678901", "tool --key id",
     "tool --key partition_2024", "tool --key /etc/ssl/Client2024.key", "tool --key keys/client2024ab",
     "tool --key ./a1b2c3d4e5", "tool --key client2024b.pem", "tool --key 2026-11-27", "cut --key=2,3"],
)  # fmt: skip
def test_an_option_of_another_program_is_no_secret(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "piece",
    ["sshpass ", "sshpass -P ", "ldapsearch ", "ldapsearch -x", "smbclient -Ua", "sqlplus ", "sqlplus a", "mc ", "mc alias set ",
     "mc -a ", "--key ", "--key a", "--key=a1", "--key=", "--key=a1=", "--key=a/", "smb -U'", "net ads "],
)  # fmt: skip
def test_long_texts_of_short_options_are_scanned_once(piece: str) -> None:
    """With time that grows as the square of the length, this would take minutes."""
    assert redact(piece * (60_000 // len(piece)))
