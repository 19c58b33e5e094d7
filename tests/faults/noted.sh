#!/bin/sh
# Notes its process in the folder it was called from, then becomes the program there.
here=$(dirname "$0")
: > "$here/$$.pid"
exec "$here/program" "$@"
