#!/bin/sh
# libjpeg-turbo from source: AlmaLinux 8, on which manylinux_2_28 builds, has 1.5, and fastvit needs 2.1.
set -eu
archive=libjpeg-turbo_2.1.5.orig.tar.gz
sha256=254f3642b04e309fee775123133c6464181addc150499561020312ec61c1bf7c

command -v nasm >/dev/null || [ "$(uname -m)" != x86_64 ] || dnf install -y nasm
cd "$(mktemp -d)"
curl -sSfLO "https://deb.debian.org/debian/pool/main/libj/libjpeg-turbo/$archive"
echo "$sha256  $archive" | sha256sum -c
tar -xzf "$archive" --strip-components=1
# The last option is for CMake 4, which knows no policies as old as libjpeg-turbo's.
cmake -B build -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=/usr -DCMAKE_INSTALL_LIBDIR=/usr/lib64 \
  -DENABLE_STATIC=0 -DWITH_TURBOJPEG=0 -DREQUIRE_SIMD=1 -DCMAKE_POLICY_VERSION_MINIMUM=3.5
cmake --build build --parallel
cmake --install build
