#!/bin/sh
# Usage: remote.sh CHAIN_FILE KEY_FILE
# Says what is needed to judge a pair that is on the host already. Only reads, and never prints a private key. One line for
# each fact, its value after a blank:
#   missing     a file that is not there or cannot be read
#   openssl     yes, if the program is there
#   chain       the chain file (base64)
#   encrypted   yes, if the key has a passphrase
#   public      the key's public half (base64)
set -u
for file in "$1" "$2"; do
  [ -f "$file" ] && [ -r "$file" ] || printf 'missing %s\n' "$file"
done
command -v openssl >/dev/null && echo openssl yes
{
  # Nothing but certificates is let out: somebody may have put the key into the same file.
  printf 'chain %s\n' "$(sed -n '/^-----BEGIN CERTIFICATE-----/,/^-----END CERTIFICATE-----/p' "$1" | base64 --wrap=0)"
  grep -q ENCRYPTED "$2" && echo encrypted yes
  public=$(openssl pkey -in "$2" -passin pass: -pubout) && printf 'public %s\n' "$(echo "$public" | base64 --wrap=0)"
} 2>/dev/null
exit 0
