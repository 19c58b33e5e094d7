#!/bin/sh
# Notes its process and its environment in the folder it was called from, then becomes the program there. In a shell of its own: the output of
# this one is what tests read a worker's progress from.
here=$(dirname "$0")
(env > "$here/$$.pid")
exec "$here/program" "$@"
