#!/bin/sh
# Usage: self_signed.sh NAME RENEW_BEFORE LIFETIME   (days)
# Says what of the host's authority and of NAME's certificate can stay. Only reads. One line for each fact, its value after
# a blank; a fact that is missing means that there is something to do:
#   now    the time, as a name for what is issued next
#   ca     the authority's certificate (base64): its key fits, and it outlives a certificate issued today
#   leaf   the certificate (base64): issued by that authority, not due for renewal, its key fits and is nobody else's
#   live   the live generation
#   due    yes, if what uses the certificate has not been reloaded since it came
set -u
name=$1 renew_before=$2 lifetime=$3

# Both are as they were written, since what openssl passes over a server may not be able to load. They belong together, and only root
# can read the key.
pair() {
  [ "$(grep -c -e '-----' "$1")$(grep -c -e '-----' "$2")" = 22 ] &&
    [ "$(cat "$1")" = "$(openssl x509 -in "$1")" ] &&
    public=$(openssl pkey -in "$2" -passin pass: -pubout) &&
    [ "$public" = "$(openssl x509 -in "$1" -noout -pubkey)" ] &&
    [ "$(stat --dereference --format='%a %u' "$2")" = '600 0' ]
}

usable_ca() {
  pair ca/ca.pem ca/ca-key.pem && openssl x509 -in ca/ca.pem -noout -checkend $((lifetime * 86400)) &&
    openssl verify -no-CApath -no-CAstore -CAfile ca/ca.pem -auth_level 2 ca/ca.pem
}

# At the time when it would be due: an expired one, and one of another authority, fail as well.
usable_leaf() {
  pair "$name/fullchain.pem" "$name/privkey.pem" &&
    openssl verify -no-CApath -no-CAstore -CAfile ca/ca.pem -purpose sslserver -auth_level 2 \
      -attime $(($(date +%s) + renew_before * 86400)) "$name/fullchain.pem"
}

printf 'now %s\n' "$(date --utc +%Y%m%dT%H%M%SZ)"
cd /etc/asgi-certificates 2>/dev/null || exit 0
[ -L "$name/live" ] && printf 'live %s\n' "$(readlink "$name/live")"
[ -e "$name/reload-due" ] && printf 'due yes\n'
{
  if usable_ca >&2; then
    printf 'ca %s\n' "$(base64 --wrap=0 ca/ca.pem)"
    if usable_leaf >&2; then
      printf 'leaf %s\n' "$(base64 --wrap=0 "$name/fullchain.pem")"
    fi
  fi
} 2>/dev/null
exit 0
