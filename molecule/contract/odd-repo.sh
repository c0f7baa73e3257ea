#!/bin/sh
# Turn a folder into a bare repository with a submodule and an annotated tag: odd-repo.sh FOLDER REPOSITORY SUBMODULE PATH
# The submodule is named relative to the repository, as projects do that are cloned over https by some and over ssh by others.
set -eu

here=$(dirname "$(readlink -f "$0")")
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
export GIT_AUTHOR_NAME=Lab GIT_AUTHOR_EMAIL=lab@example.test GIT_AUTHOR_DATE=2025-01-01T00:00:00Z
export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE

"$here/../lab/bare-repo.sh" "$1" "$2" >/dev/null
theme=$(git --git-dir="$3" rev-parse refs/tags/v1.0.0)
export GIT_DIR="$2"
before=$(git rev-parse --quiet --verify 'refs/tags/v2.0.0^{commit}' || true)
GIT_INDEX_FILE=$(mktemp -d)/index
export GIT_INDEX_FILE
git read-tree refs/heads/main
modules=$(printf '[submodule "theme"]\n\tpath = %s\n\turl = ../%s\n' "$4" "$(basename "$3")" | git hash-object -w --stdin)
git update-index --add --cacheinfo "100644,$modules,.gitmodules" --cacheinfo "160000,$theme,$4"
commit=$(git commit-tree -p refs/heads/main -m "Second release" "$(git write-tree)")
rm -r "$(dirname "$GIT_INDEX_FILE")"
if [ "$commit" != "$before" ]; then
	echo changed
	git tag --annotate --force --message "Second release" v2.0.0 "$commit" >/dev/null
fi
