"""A server's ~/.ssh/authorized_keys: a public key, and the command that adds it there."""

from __future__ import annotations

import dataclasses
import re

from remote_launch.transport.command import Command

_PUBLIC_KEY = re.compile(r"([a-z0-9][a-z0-9@.-]+) ([A-Za-z0-9+/]{40,}={0,3})(?:\s+(.*))?\Z")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]+")

# A line is only ever appended, in one write: what others wrote is never written anew, and a symbolic link is
# followed. The lock is a folder, which holds over NFS too: several servers may have one home.
_ADD = r"""umask 077
dir=$HOME/.ssh; file=$dir/authorized_keys; lock=$dir/.rl-authorize
fail() { echo "$1" >&2; exit 1; }
[ -d "$HOME" ] || fail "there is no home folder ($HOME)"
[ -d "$dir" ] || mkdir "$dir" || [ -d "$dir" ] || fail "can't make $dir"
[ ! -d "$file" ] || fail "$file is a folder"
chmod go-rwx "$dir" 2>/dev/null
if [ -w "$dir" ]; then
    tries=0
    until mkdir "$lock" 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -le 150 ] || fail "$lock is in the way; when nobody runs this just now: rmdir $lock"
        [ -z "$(find "$lock" -prune -mmin +1 2>/dev/null)" ] || rmdir "$lock" 2>/dev/null
        sleep 0.1
    done
    trap 'rmdir "$lock" 2>/dev/null' EXIT
    trap 'exit 1' HUP INT TERM
fi
has() {
    [ -f "$file" ] || return 1
    LC_ALL=C grep -q "^[[:space:]]*\([^#[:space:]].*[[:space:]]\)\{0,1\}$1[[:space:]]\{1,\}$2" "$file"
}
if has "$1" "$2"; then
    echo present
else
    before=; [ ! -s "$file" ] || [ -z "$(tail -c 1 "$file")" ] || before=yes
    if [ -n "$before" ]; then
        printf '\n%s\n' "$3" >> "$file" || fail "can't write $file"
    else
        printf '%s\n' "$3" >> "$file" || fail "can't write $file"
    fi
    has "$1" "$2" || fail "$file could not be written whole"
    echo added
fi
chmod go-rwx "$file" 2>/dev/null
if command -v restorecon >/dev/null 2>&1; then restorecon -F "$dir" "$file" 2>/dev/null; fi
[ -z "$(find "$HOME" -prune \( -perm -020 -o -perm -002 \) 2>/dev/null)" ] || echo open-home
exit 0
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """One line of a .pub file."""

    kind: str  # ssh-ed25519 …
    blob: str  # base64
    comment: str = ""

    @property
    def line(self) -> str:
        return f"{self.kind} {self.blob} {self.comment}".rstrip()


def parse_public_key(text: str) -> PublicKey:
    """Given a .pub file's text, return its key. Raises ValueError when it is none."""
    first = text.strip().partition("\n")[0].strip()
    match = _PUBLIC_KEY.match(first)
    if match is None:
        raise ValueError("not a public key of ssh (a line like: ssh-ed25519 AAAA… name)")
    kind, blob, comment = match.groups()
    return PublicKey(kind=kind, blob=blob, comment=_UNPRINTABLE.sub(" ", comment or "").strip())


def add_key_command(key: PublicKey) -> Command:
    """Return the command that adds a key for the user who runs it, unless it is there.

    It prints "added" or "present", and "open-home" where others may write to the home folder: sshd then
    takes no key.
    """
    kind = key.kind.replace(".", r"\.")
    return Command([kind, key.blob, key.line], shell=_ADD, label="add a key to ~/.ssh/authorized_keys")
