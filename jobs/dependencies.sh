# shellcheck shell=bash
# What the build, the tests and the quick start need. To be sourced; then call install_dependencies.
#
# It installs missing Debian packages (as root or with passwordless sudo), makes a Python environment in
# $APB_DATA/venv (default ~/.cache/apb/venv) with oneDNN and the packages of our scripts, and exports
# CMAKE_PREFIX_PATH and APB_PYTHON. When everything is there it touches no network. With DNNL_DIR or dnnl_DIR set,
# oneDNN is taken from there.

APB_DEBIAN_PACKAGES=(
  g++ cmake ninja-build pkg-config git ccache libopenmpi-dev openmpi-bin libhdf5-dev libcli11-dev libgtest-dev
  nlohmann-json3-dev libpcre2-dev libutf8proc-dev libfmt-dev libxxhash-dev python3 python3-venv
)
APB_PYTHON_PACKAGES=(numpy==2.4.6 h5py==3.16.0 gguf==0.19.0 tokenizers==0.23.3 matplotlib==3.11.2)
APB_ONEDNN_PACKAGES=(onednn-cpu-gomp==2023.2.0 onednn-devel-cpu-gomp==2023.2.0)

# One line on standard error: what is missing and how to get it.
_apb_report_missing() {
  echo "apb: missing: $*. Have an administrator install them (Debian: apt-get install), or load them with" \
    "environment modules (module load) or Spack (spack install), then start again." >&2
}

_apb_missing_debian_packages() {
  local package
  local -A installed=()
  while read -r package; do
    installed[$package]=1
  done < <(dpkg-query --show --showformat '${db:Status-Abbrev}|${Package}\n' "${APB_DEBIAN_PACKAGES[@]}" 2>/dev/null |
    sed -n 's/^.i[^|]*|//p')
  for package in "${APB_DEBIAN_PACKAGES[@]}"; do
    [[ -n ${installed[$package]:-} ]] || echo "$package"
  done
}

# True where a compiler finds the header, in its own folders or in those of CPATH and CMAKE_PREFIX_PATH.
_apb_has_header() {
  local prefix
  for prefix in ${CMAKE_PREFIX_PATH:+${CMAKE_PREFIX_PATH//:/ }}; do
    [[ -e $prefix/include/$1 ]] && return 0
  done
  echo "#include <$1>" | "${CXX:-c++}" -E -x c++ - >/dev/null 2>&1
}

_apb_missing_tools() {
  local name
  for name in "${CXX:-c++}" cmake ninja pkg-config git mpicxx mpirun python3; do
    command -v "$name" >/dev/null || echo "$name"
  done
  for name in libpcre2-8 libutf8proc libxxhash; do
    pkg-config --exists "$name" 2>/dev/null || echo "$name"
  done
  # Debian keeps HDF5's headers where only its own tools find them.
  command -v h5cc h5pcc >/dev/null || pkg-config --exists hdf5_hl 2>/dev/null || _apb_has_header hdf5_hl.h || echo hdf5
  for name in CLI/CLI.hpp gtest/gtest.h nlohmann/json.hpp fmt/format.h; do
    _apb_has_header "$name" || echo "$name"
  done
}

# Runs a command without its output; where it fails, says so in one line that ends with the command's last.
_apb_quietly() {
  local message=$1 output
  shift
  output=$("$@" 2>&1) || {
    echo "apb: $message: $(grep -v '^ *$' <<<"$output" | tail -n 1)" >&2
    return 1
  }
}

# Runs a command as root: directly, or by sudo without a password.
_apb_as_root() {
  if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

_apb_install_system_packages() {
  local missing
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    mapfile -t missing < <(_apb_missing_tools)
    ((${#missing[@]} == 0)) || { _apb_report_missing "${missing[@]}"; return 1; }
    return 0
  fi
  mapfile -t missing < <(_apb_missing_debian_packages)
  ((${#missing[@]} > 0)) || return 0
  if ! _apb_as_root true 2>/dev/null; then
    # Not everything comes from dpkg on a cluster: only what cannot be found by trying stops us.
    [[ -n $(_apb_missing_tools) ]] || return 0
    _apb_report_missing "${missing[@]}"
    return 1
  fi
  echo "apb: installing ${missing[*]}"
  _apb_quietly "apt-get could not update its lists" _apb_as_root apt-get update -qq || return 1
  _apb_quietly "apt-get could not install ${missing[*]}" _apb_as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# A stamp in the environment holds the list that was installed last.
_apb_install_python_packages() {
  local venv=$1 packages=("${APB_PYTHON_PACKAGES[@]}")
  [[ -n ${DNNL_DIR:-}${dnnl_DIR:-} ]] || packages+=("${APB_ONEDNN_PACKAGES[@]}")
  [[ $(cat "$venv/installed.txt" 2>/dev/null) == "${packages[*]}" ]] && return 0
  echo "apb: installing Python packages in $venv"
  [[ -e $venv/bin/pip ]] || # also after a creation that failed midway
    _apb_quietly "python3 could not make a virtual environment in $venv" python3 -m venv --clear "$venv" || return 1
  _apb_quietly "pip could not install ${packages[*]}" \
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}" || return 1
  echo "${packages[*]}" >"$venv/installed.txt"
}

install_dependencies() {
  local venv=${APB_DATA:-$HOME/.cache/apb}/venv
  _apb_install_system_packages || return 1
  _apb_install_python_packages "$venv" || return 1
  export CMAKE_PREFIX_PATH="$venv${CMAKE_PREFIX_PATH:+:$CMAKE_PREFIX_PATH}"
  export APB_PYTHON=$venv/bin/python
  if ((EUID == 0)); then # Open MPI refuses to run as root otherwise
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
}
