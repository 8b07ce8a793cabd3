#!/bin/sh
# Prints what is on the host: one line for each fact, its value after a blank.
cd /etc/asgi-certificates || exit
for app in own given; do
  pair="$app/fullchain.pem $app/privkey.pem"
  printf '%s %s\n' $app-chain "$(base64 --wrap=0 $app/fullchain.pem)"
  printf '%s %s\n' $app-public "$(openssl pkey -in $app/privkey.pem -pubout | base64 --wrap=0)"
  printf '%s %s\n' $app-key "$(readlink --canonicalize $app/privkey.pem)"
  printf '%s %s\n' $app-directories "$(find $app -mindepth 1 -type d | wc -l)"
  # shellcheck disable=SC2086 # two words
  printf '%s %s\n' $app-modes "$(stat --dereference --format='%U:%G %a' $app $pair | xargs)"
done
printf 'ca %s\n' "$(base64 --wrap=0 ca/ca.pem)"
printf 'ca-modes %s\n' "$(stat --format='%U:%G %a' ca ca/ca.pem ca/ca-key.pem | xargs)"
# A reload is over before nginx has acted on it.
sleep 0.3
printf 'nginx %s\n' "$(systemctl show nginx --property ActiveState --property MainPID --value | xargs)"
printf 'served %s\n' "$(openssl s_client -connect 127.0.0.1:443 2>/dev/null </dev/null | base64 --wrap=0)"
