#!/bin/sh
# Turn a folder of plain files into a bare git repository, the same commit every time: bare-repo.sh FOLDER REPOSITORY
# Prints `changed` when the repository's main branch moved.
set -eu

export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
export GIT_AUTHOR_NAME=Lab GIT_AUTHOR_EMAIL=lab@example.test GIT_AUTHOR_DATE=2025-01-01T00:00:00Z
export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE

[ -d "$2" ] || git init --quiet --bare --initial-branch=main "$2"
export GIT_DIR="$2" GIT_WORK_TREE="$1"
git add --all -- "$1" ":(exclude,glob)$1/**/__pycache__/**"
commit=$(git commit-tree -m "First release" "$(git write-tree)")
[ "$commit" = "$(git rev-parse --quiet --verify refs/heads/main || true)" ] || echo changed
git update-ref refs/heads/main "$commit"
git update-ref refs/tags/v1.0.0 "$commit"
