#!/bin/sh
# What changed from one stage to the next: sh tests/diff.sh 03_select 04_poll
set -u
old=$1
new=$2

color=never
[ -t 1 ] && [ -z "${NO_COLOR-}" ] && color=always

show_change() {
    if command -v git >/dev/null 2>&1; then
        git --no-pager diff --no-index --no-ext-diff --color=$color "$old/$1" "$new/$1"
    elif diff --color=$color /dev/null /dev/null 2>/dev/null; then
        diff -u --color=$color "$old/$1" "$new/$1"
    else
        diff -u "$old/$1" "$new/$1"
    fi
}

same='' more=''
for file in server.cpp $(ls "$old" "$new" | grep '\.hpp$' | sort -u); do
    if [ ! -e "$old/$file" ]; then
        more="$more
new in $new: $file ($(($(wc -l <"$new/$file"))) lines)"
    elif [ ! -e "$new/$file" ]; then
        more="$more
no longer in $new: $file"
    elif cmp -s "$old/$file" "$new/$file"; then
        same="$same $file"
    else
        show_change "$file"
    fi
done
# Nobody reads on: where SIGPIPE is ignored, printf says so, and we do not.
printf '%s\n' "$more" "the same in both:${same:- nothing}" 2>/dev/null || exit 141
