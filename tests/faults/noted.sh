#!/bin/sh
# Notes its process and its environment in the folder it was called from, then becomes the program there.
here=$(dirname "$0")
env > "$here/$$.pid"
exec "$here/program" "$@"
