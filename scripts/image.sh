#!/bin/bash
# The steps of the Dockerfile that are more than a line.
#
# Usage: scripts/image.sh collect BIN_FOLDER FOLDER   gather what the image needs of a build: the programs, the daemon's
#                                                     modules, and the names of the packages of their libraries
#        scripts/image.sh install FOLDER              put that into the image that this runs in, with a user, the folders
#                                                     and the bill of materials
#        scripts/image.sh sbom                        print a bill of materials (SPDX 2.3, JSON) of the installed packages
#   -h, --help                                        this text
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

uid=10001  # of nobody else's image; Kubernetes wants it as a number

# The packages of the shared libraries that these files need.
packages_of_libraries() {
  local library package
  ldd "$@" | awk '/=> \// { print $3 }' | sort -u | while read -r library; do
    # dpkg knows files by the path they were installed under, with or without the merged /usr.
    package=$(dpkg-query -S "$(realpath "$library")" 2>/dev/null || dpkg-query -S "$library" 2>/dev/null ||
      dpkg-query -S "${library#/usr}" 2>/dev/null) || die "no package has $library"
    printf '%s\n' "${package%%:*}"
  done | sort -u
}

collect() {
  local bin=$1 folder=$2 module
  mkdir -p "$folder/bin" "$folder/lib"
  install "$bin/spillwayd" "$bin/spillway" "$folder/bin/"
  for module in "$bin"/libspillway_*.so; do
    [[ ! -e $module ]] || install "$module" "$folder/bin/"
  done
  strip --strip-unneeded "$folder"/bin/*
  packages_of_libraries "$folder/bin/spillwayd" "$folder/bin/spillway" >"$folder/packages.txt"
  install -m 644 "$SPILLWAY_ROOT/LICENSE" "$folder/"
  sed -n 's/^project(spillway VERSION \([0-9.]*\).*/\1/p' "$SPILLWAY_ROOT/CMakeLists.txt" >"$folder/version"
}

install_image() {
  local folder=$1 doc=/usr/share/doc/spillway
  cp -P "$folder"/bin/* /usr/local/bin/
  if compgen -G "$folder/lib/*" >/dev/null; then
    cp -P "$folder"/lib/* /usr/local/lib/
    ldconfig
  fi
  groupadd --gid "$uid" spillway
  useradd --uid "$uid" --gid "$uid" --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin spillway
  install -d /models
  install -d -o "$uid" -g "$uid" /cache
  install -D -m 644 -t "$doc" "$folder/LICENSE"
  sbom "$(<"$folder/version")" >"$doc/sbom.spdx.json"
}

# Fields of dpkg's database are one line each, and separated by tabs here.
json_text() { sed 's/[\\"]/\\&/g'; }

sbom() {
  local version=${1:-unknown} distribution name=spillway
  distribution=$(sed -n 's/^ID=//p' /etc/os-release)
  cat <<JSON
{
  "spdxVersion": "SPDX-2.3",
  "dataLicense": "CC0-1.0",
  "SPDXID": "SPDXRef-DOCUMENT",
  "name": "$name-$version",
  "documentNamespace": "https://spillway.invalid/sbom/$name-$version-$(dpkg-query -W | sha256sum | cut -c 1-32)",
  "creationInfo": {
    "created": "$(date -u -d "@${SOURCE_DATE_EPOCH:-$(date +%s)}" +%Y-%m-%dT%H:%M:%SZ)",
    "creators": ["Tool: scripts/image.sh"]
  },
  "documentDescribes": ["SPDXRef-Package-$name"],
  "packages": [
    {
      "SPDXID": "SPDXRef-Package-$name",
      "name": "$name",
      "versionInfo": "$version",
      "downloadLocation": "NOASSERTION",
      "filesAnalyzed": false,
      "licenseConcluded": "GPL-3.0-or-later",
      "licenseDeclared": "GPL-3.0-or-later",
      "copyrightText": "NOASSERTION"
    }$(dpkg-query -W -f '${db:Status-Status}\t${binary:Package}\t${Version}\t${Architecture}\t${source:Package}\t${Maintainer}\n' |
    json_text | awk -F '\t' -v distribution="$distribution" '$1 == "installed" {
      package = $2; sub(/:.*/, "", package); id = $2; gsub(/[^A-Za-z0-9.-]/, "-", id); version = $3; gsub(/\+/, "%2B", version); gsub(/:/, "%3A", version)
      printf ",\n    {\n      \"SPDXID\": \"SPDXRef-Package-deb-%s\",\n      \"name\": \"%s\",\n      \"versionInfo\": \"%s\",\n", id, package, $3
      printf "      \"supplier\": \"Organization: %s\",\n      \"sourceInfo\": \"built from %s\",\n", $6, $5
      printf "      \"downloadLocation\": \"NOASSERTION\",\n      \"filesAnalyzed\": false,\n"
      printf "      \"licenseConcluded\": \"NOASSERTION\",\n      \"licenseDeclared\": \"NOASSERTION\",\n      \"copyrightText\": \"NOASSERTION\",\n"
      printf "      \"externalRefs\": [{\"referenceCategory\": \"PACKAGE-MANAGER\", \"referenceType\": \"purl\", \"referenceLocator\": \"pkg:deb/%s/%s@%s?arch=%s\"}]\n    }", distribution, package, version, $4 }')
  ],
  "relationships": [
    {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-Package-$name"}
  ]
}
JSON
}

case ${1:-} in
  collect) (($# == 3)) || usage_error "collect takes two folders"; collect "$2" "$3" ;;
  install) (($# == 2)) || usage_error "install takes a folder"; install_image "$2" ;;
  sbom) sbom ;;
  -h | --help) print_help ;;
  *) usage_error "unknown command '${1:-}': collect, install or sbom" ;;
esac
