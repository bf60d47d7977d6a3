#!/usr/bin/env bash
# Everything that needs a GPU, in under ten minutes: the tests, the speed table, a run of the core methods.
#
#   benchmarks/gpu.sh prepare [--python 3.12]      download what the GPU machine may lack to benchmarks/wheels (50 MB)
#   benchmarks/gpu.sh run [tests] [speed] [core]   there: install it without network, run all or these, write to $OUT
#
# The GPU machine is x86-64 Linux with Python 3.11 to 3.13, torch, numpy, pandas, scipy, matplotlib and rich. It needs
# neither Ray nor a network. Variables of `run`, with defaults:
#   OUT=gpu-results      results: output of every step, a summary, and details.tar.gz with tables and records
#   DEVICE=cuda          cpu: a rehearsal
#   PYTHON=python3       the interpreter that has torch
#   MODELS="image:small image:paper text:small text:paper"  METHODS=vae,sa_vae,aggressive    of the speed table
#   TESTS=tests/gpu      tests to run     JOBS=12  test processes, and runs that share the core methods
#   SCALE=1              factor of every time limit
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
wheels=benchmarks/wheels

prepare() {
    local version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    [[ ${1:-} == --python ]] && version=$2
    local options=(--only-binary=:all: --python-version "$version" --implementation cp -d "$wheels")
    local tag
    for tag in manylinux_2_28 manylinux_2_17 manylinux2014 manylinux1; do options+=(--platform "${tag}_x86_64"); done
    rm -rf "$wheels"
    "$python" -m pip download -q "${options[@]}" -c constraints.txt \
        pydantic pooch jinja2 filelock requests pytest pytest-timeout pytest-xdist hypothesis || exit 1
    "$python" -m pip download -q "${options[@]}" --no-deps -c constraints.txt seaborn || exit 1
    # The oldest version that is supported: later ones are 13 MB larger.
    "$python" -m pip download -q "${options[@]}" --no-deps pyarrow==20.0.0 || exit 1
    local bytes
    bytes=$(cat "$wheels"/*.whl | wc -c)
    echo "$wheels: $((bytes / 1000000)) MB for Python $version"
    ((bytes <= 60000000)) || { echo "more than 60 MB"; exit 1; }
}

# The packages of pyproject.toml without Ray, and those of the tests.
requirements() {
    "$python" - <<'END'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
test = ("hypothesis", "pytest>", "pytest-timeout", "pytest-xdist")
print(*(r for r in project["dependencies"] if not r.startswith("ray")), sep="\n")
print(*(r for r in project["optional-dependencies"]["dev"] if r.startswith(test)), sep="\n")
END
}

# A virtual environment that sees the packages of $python, also if that is one itself.
install() {
    "$python" -m venv --without-pip "$work/venv" || return 1
    local packages
    packages=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' >"$packages/outer.pth"
    local wanted pip=("$python" -m pip --python "$work/venv/bin/python" install -q --no-index --no-cache-dir
        --disable-pip-version-check --find-links "$wheels")
    mapfile -t wanted < <(requirements)
    PIP_CONFIG_FILE=/dev/null "${pip[@]}" "${wanted[@]}" && return
    local requirement
    for requirement in "${wanted[@]}"; do
        PIP_CONFIG_FILE=/dev/null "${pip[@]}" "$requirement" || echo "not installed: $requirement"
    done
}

# step NAME SECONDS COMMAND…: append the output to $OUT/NAME.txt and a line to the summary; go on after a failure.
step() {
    local name=$1 limit=$2 started=$SECONDS status=ok code=0
    local left=$((total - SECONDS))
    ((limit *= scale))
    ((limit = limit < left ? limit : left))
    if ((limit > 0)); then
        timeout --signal=INT --kill-after=10 "$limit" "${@:3}" >>"$OUT/$name.txt" 2>&1 </dev/null || code=$?
        [[ $code == 0 ]] || status="failed ($code)"
        [[ $code == 124 || $code == 137 ]] && status="out of time"
    else
        status="no time left"
    fi
    printf '%-20s %-14s %4d s   %s\n' "$name" "$status" $((SECONDS - started)) \
        "$(tail -n 1 "$OUT/$name.txt" 2>/dev/null | tr -d '\r' | cut -c1-100)" | tee -a "$OUT/summary.txt"
}

run() {
    OUT=${OUT:-gpu-results}
    mkdir -p "$OUT" || exit 1
    OUT=$(cd "$OUT" && pwd)
    rm -f "$OUT"/*.txt "$OUT/details.tar.gz"
    local steps=" ${*:-tests speed core} "
    scale=${SCALE:-1} total=$((570 * ${SCALE:-1})) work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    local device=${DEVICE:-cuda} jobs=${JOBS:-12} share=() model job
    [[ $device == cuda ]] && share=(--gpus-per-cell 0.15)
    install >"$OUT/install.txt" 2>&1 || { cat "$OUT/install.txt"; exit 1; }
    export PYTHONPATH=$PWD BENCH_CACHE=$work/cache MPLCONFIGDIR=$work/matplotlib BENCH_GPU_TEST_DEVICE=$device
    export PYTHONUNBUFFERED=1
    local venv=$work/venv/bin/python
    "$venv" - "$device" >"$OUT/summary.txt" <<'END' || { cat "$OUT/summary.txt"; exit 1; }
import platform, sys, torch
cuda = torch.cuda.is_available()
print(f"Python {platform.python_version()}, torch {torch.__version__},", torch.cuda.get_device_name() if cuda else "no GPU")
sys.exit(sys.argv[1] == "cuda" and not cuda)
END
    echo "installed after $SECONDS s" >>"$OUT/summary.txt"
    [[ -s $OUT/install.txt ]] && cat "$OUT/install.txt" >>"$OUT/summary.txt"
    rm -f "$OUT/install.txt"

    mkdir -p "$work/details"
    export BENCH_GPU_TEST_SECONDS=$((130 * scale)) # failures are printed at the end, so the tests end before their limit
    [[ $steps != *" tests "* ]] || step tests 170 "$venv" -m pytest -o addopts= -m gpu -n "$jobs" -v -rs --tb=short \
        --durations=10 -p no:cacheprovider ${TESTS:-tests/gpu}
    [[ $steps != *" speed "* ]] || for model in ${MODELS:-image:small image:paper text:small text:paper}; do
        mkdir -p "$work/details/speed-${model/:/-}"
        step "speed-${model/:/-}" 110 "$venv" -m bench speed --device "$device" --models "$model" --seconds 1 \
            --methods "${METHODS:-vae,sa_vae,aggressive}" --out "$work/details/speed-${model/:/-}"
    done
    local core=("$venv" -m bench run --methods core --dataset glyphs --preset quick --executor local --device "$device"
        "${share[@]}" --out "$work/details/core")
    # Runs that share a folder divide its cells among them.
    [[ $steps != *" core "* ]] || { step core 200 bash -c \
        'for ((i = 1; i < $0; i++)); do "$@" >/dev/null & sleep 1; done; "$@"; status=$?; wait; exit $status' \
        "$jobs" "${core[@]}" && step core 30 "$venv" -m bench report "$work/details/core"; }
    tar -C "$work/details" --exclude='*.pt' --exclude='*.npz' -czf "$OUT/details.tar.gz" .
    echo "all in $SECONDS s: $OUT"
}

case ${1:-} in
prepare) prepare "${@:2}" ;;
run) run "${@:2}" ;;
*) sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
