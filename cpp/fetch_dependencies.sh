#!/bin/sh
# Unpack what the C++ host builds with beside the project: no root needed, nothing installed.
#
#   cpp/fetch_dependencies.sh DIR [--fuzz]
#
# From this machine's own Debian or Ubuntu mirror: nlohmann-json, utf8proc, OpenSSL and stb, and ONNX
# Runtime's headers from Debian trixie where the machine's own release has none. --fuzz adds clang with
# libFuzzer where clang++ is missing. Afterwards: cmake -DCMAKE_PREFIX_PATH=DIR/usr …
set -eu
into=${1:?usage: cpp/fetch_dependencies.sh DIR [--fuzz]}
mkdir -p "$into"
into=$(cd "$into" && pwd)
fuzz=${2:-}
[ -f "$into/done$fuzz" ] && exit 0
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
    echo "fetch_dependencies.sh: needs apt-get and dpkg-deb; install the packages by hand (docs/cpp.md)." >&2
    exit 1
}

apt() { # a private copy of apt's state: lists and downloads of its own
    release=$1
    shift
    mkdir -p "$into/apt/$release/lists/partial" "$into/apt/$release/cache/archives/partial"
    sources=${release#own}
    set -- -qq -o Dir::State::Lists="$into/apt/$release/lists" -o Dir::Cache="$into/apt/$release/cache" \
        -o APT::Sandbox::User=root -o Dir::Etc::SourceParts="$([ -z "$sources" ] && echo sources.list.d || echo /dev/null)" "$@"
    [ -z "$sources" ] || set -- -o Dir::Etc::SourceList="$into/apt/$release/sources.list" "$@"
    apt-get "$@"
}

unpack() {
    release=$1
    shift
    mkdir -p "$into/debs"
    (cd "$into/debs" && apt "$release" download "$@") || return 1
    for deb in "$into"/debs/*.deb; do
        dpkg-deb -x "$deb" "$into"
    done
    rm -rf "$into/debs"
}

apt own update
unpack own nlohmann-json3-dev libutf8proc-dev libssl-dev libstb-dev doctest-dev
if [ ! -d "$into/usr/include/onnxruntime" ] && ! unpack own libonnxruntime-dev 2>/dev/null; then
    mirror=$(apt-get indextargets --format '$(SITE)' 'Identifier: Packages' | head -n 1)
    mkdir -p "$into/apt/trixie"
    echo "deb $mirror trixie main" >"$into/apt/trixie/sources.list"
    apt trixie update
    unpack trixie libonnxruntime-dev
fi
if [ -n "$fuzz" ] && ! command -v clang++ >/dev/null && ! command -v clang++-14 >/dev/null; then
    unpack own clang-14 libclang-rt-14-dev libclang-common-14-dev libclang-cpp14 libclang1-14 libllvm14 libz3-4
fi
rm -rf "$into/apt"
touch "$into/done" "$into/done$fuzz"
