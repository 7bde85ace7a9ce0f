# shellcheck shell=bash
# What the demo, the lab and tests/run share: packages, the cache, progress lines, the images.
#
# Concepts
#  cache    $BALLAST_CACHE, by default ${XDG_CACHE_HOME:-~/.cache}/ballast: downloads and what is made from them.
#           Nothing here is installed: the kernel is Debian's own package, unpacked into a folder.
#  images   one folder of the cache with everything a boot needs, keyed by kernel version and by what it is made of:
#             vmlinuz     Debian's kernel as shipped (bzImage)
#             vmlinux     the ELF file inside it, for PVH boots
#             guest.cpio  initramfs of Ballast's guests: busybox, drivers, guest-init, oracle, kexec, load
#             lab.cpio    initramfs of the lab host: busybox, 9p, overlay, lab-init
#             load        that of guest.cpio, for the lab host to be its other end
#             ballast_mdev.ko  module of the lab host: a mediated device
#             linux       -> the unpacked kernel package, with all of its modules
#  lab      the machine under QEMU that has KVM, an IOMMU and PCI devices to assign; see ./lab

images_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# BALLAST_DEBUG=1 shows what apt-get, make and the like have to say.

# When the first of the scripts began; those that it starts, in the lab too, count from there.
export BALLAST_BEGAN=${BALLAST_BEGAN:-$EPOCHSECONDS}

# Prints one progress line, with the seconds since the beginning.
say() {
    printf '[%3d s] %s\n' $((EPOCHSECONDS - BALLAST_BEGAN)) "$*" >&2
}

# Prints why this cannot go on, and ends the script.
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Runs a command whose output matters only when it fails.
quietly() {
    local output
    if [[ -n ${BALLAST_DEBUG:-} ]]; then
        "$@" >&2
    elif ! output=$("$@" 2>&1); then
        printf '%s\n' "$output" >&2
        die "this failed: $*"
    fi
}

# Runs a command as root: directly, or through sudo.
as_root() {
    if [[ $EUID -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "needs root for: $*"
    fi
}

# Installs the Debian packages named that are missing; the package lists are fetched only if something is.
need_packages() {
    local package missing=()
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    say "installing ${missing[*]}"
    refresh_package_lists
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

package_lists_are_fresh=
refresh_package_lists() {
    [[ -z $package_lists_are_fresh ]] || return 0
    quietly as_root apt-get update
    package_lists_are_fresh=yes
}

cache=${BALLAST_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ballast}

# What builds Ballast.
build_packages=(gcc libc6-dev meson ninja-build pkg-config acpica-tools check libjansson-dev liburing-dev
    libseccomp-dev)

# Builds Ballast, unless BALLAST names a finished one, and sets ballast to the binary's path.
build_ballast() {
    local root
    root=$(dirname "$images_source")
    # shellcheck disable=SC2034 # for who sources this
    ballast=${BALLAST:-$root/build/vmm/ballast}
    [[ -z ${BALLAST:-} ]] || return 0
    need_packages "${build_packages[@]}"
    say "building Ballast"
    [[ -f $root/build/build.ninja ]] || quietly meson setup "$root/build" "$root"
    quietly ninja -C "$root/build" vmm/ballast
}

# Downloads Debian packages of one version into the current folder and unpacks them into folder $1; installs nothing.
unpack_packages() {
    local into=$1 package
    shift
    local sandbox=()
    [[ $EUID -ne 0 ]] || sandbox=(-o APT::Sandbox::User=root)
    apt-get "${sandbox[@]}" download "$@" >/dev/null 2>&1 ||
        { refresh_package_lists && quietly apt-get "${sandbox[@]}" download "$@"; }
    for package in *.deb; do
        dpkg -x "$package" "$into"
        rm "$package"
    done
}

# Name of the package behind the meta package linux-image-amd64, for example linux-image-6.1.0-56-amd64.
kernel_package() {
    apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*-amd64\)$/\1/p' | head -n 1
}

package_version() {
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p'
}

# Makes sure Debian's kernel lies unpacked in the cache: sets linux (its folder) and release (what uname -r says).
prepare_kernel() {
    local package version work
    package=$(kernel_package)
    if [[ -z $package ]]; then
        refresh_package_lists
        package=$(kernel_package)
        [[ -n $package ]] || die "apt knows no linux-image-amd64; is this Debian on amd64?"
    fi
    version=$(package_version "$package")
    release=${package#linux-image-}
    linux=$cache/linux-$release-$version
    [[ ! -d $linux ]] || return 0

    say "fetching Debian's kernel $release ($version; about 85 MB, kept in $cache)"
    work=$(mktemp -d "$cache/tmp.XXXXXX")
    (
        cd "$work" || exit
        # The headers are for the modules of our own, edu/, keep/ and mdev/.
        unpack_packages root "$package" "linux-headers-$release" "linux-headers-${release%-amd64}-common" \
            "linux-kbuild-${release%%.0-*}" linux-compiler-gcc-12-x86
        rm -rf root/usr/share
        depmod -b root "$release"
        extract_vmlinux "root/boot/vmlinuz-$release" root/boot/vmlinux
    )
    mv "$work/root" "$linux"
    rmdir "$work"
}

# A little-endian 32-bit word of file $1 at offset $2.
word_at() {
    od -An -tu4 -j "$2" -N 4 "$1" | tr -d ' '
}

# Takes the ELF file out of bzImage $1, by the offset and length in its setup header, and writes it to $2.
extract_vmlinux() {
    local setup_sectors start length magic unpack
    setup_sectors=$(od -An -tu1 -j $((0x1f1)) -N 1 "$1" | tr -d ' ')
    start=$(((setup_sectors + 1) * 512 + $(word_at "$1" $((0x248)))))
    length=$(word_at "$1" $((0x24c)))
    magic=$(od -An -tx1 -j "$start" -N 4 "$1" | tr -d ' ')
    case $magic in
        fd377a58) unpack=(xz --single-stream -dc) ;;
        1f8b*) unpack=(gzip -dc) ;;
        28b52ffd) unpack=(zstd -dc) ;;
        *) die "$1 is compressed in a way unknown here (starts with $magic)" ;;
    esac
    # The last four bytes are the unpacked length, which is no part of the stream.
    dd if="$1" bs=1M iflag=skip_bytes,count_bytes skip="$start" count=$((length - 4)) status=none | "${unpack[@]}" >"$2"
}

# Copies the modules named, and those modules.dep says they need, into tree $1, ready for busybox's modprobe.
copy_modules() {
    local tree=$1 module path
    shift
    for module in "$@"; do
        modprobe -d "$linux" -S "$release" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | sort -u | while read -r path; do
        install -D -m 644 "$path" "$tree/${path#"$linux"/}"
    done
    cp "$linux/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} "$tree/lib/modules/$release/"
}

# Packs tree $1 into the initramfs $2. It stays uncompressed: unpacking is dear under emulation, reading is not.
pack_initramfs() {
    depmod -b "$1" "$release"
    (cd "$1" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$2"
}

make_busybox_tree() {
    mkdir -p "$1"/{bin,dev,etc,proc,sys,tmp,run,mnt,lib/modules/"$release"}
    ln -s bin "$1/sbin"
    cp /bin/busybox "$1/bin/busybox"
    ln -s busybox "$1/bin/sh"
}

make_lab_initramfs() {
    make_busybox_tree "$1"
    install -m 755 "$images_source/lab-init" "$1/init"
    copy_modules "$1" virtio_pci 9pnet_virtio 9p overlay virtio_console
    pack_initramfs "$1" "$2"
}

make_guest_initramfs() {
    make_busybox_tree "$1"
    install -m 755 "$images_source/guest-init" "$1/init"
    local program
    for program in oracle kexec load; do
        quietly gcc-12 -std=gnu11 -O2 -Wall -Wextra -Werror -static -s -o "$1/bin/$program" "$images_source/$program.c"
    done
    copy_modules "$1" nvme e1000e virtio_pci virtio_balloon virtio_rng virtio_blk virtio_net virtio_console pvpanic-mmio button evdev
    build_module edu "$1/lib/modules/$release/ballast_edu.ko"
    build_module keep "$1/lib/modules/$release/ballast_keep.ko"
    pack_initramfs "$1" "$2"
}

# Adds the drivers of the devices with these modaliases to the guest's initramfs $1 and writes the result to $2.
# Nothing is added for a device whose driver is there already, or that Debian's kernel does not know.
add_guest_drivers() {
    local from=$1 to=$2 tree modalias
    shift 2
    tree=$(mktemp -d "$cache/tmp.XXXXXX")
    (cd "$tree" && cpio --quiet -id <"$from")
    for modalias in "$@"; do
        copy_modules "$tree" "$modalias" 2>/dev/null || true
    done
    pack_initramfs "$tree" "$to"
    rm -rf "$tree"
}

# Builds the kernel module of ours in folder $1 against Debian's kernel headers, to be file $2.
build_module() {
    local build
    build=$(mktemp -d "$cache/tmp.XXXXXX")
    cp "$images_source/$1"/* "$build/"
    quietly make -s -C "$linux/usr/src/linux-headers-${release%-amd64}-common" \
        O="$linux/usr/src/linux-headers-$release" KERNELRELEASE="$release" ARCH=x86 CC=gcc-12 M="$build" modules
    cp "$build/ballast_$1.ko" "$2"
    rm -rf "$build"
}

# Makes the images, unless they are in the cache, and sets images to their folder.
# In the lab they were made outside, and BALLAST_IMAGES says where.
prepare_images() {
    local key work
    if [[ -n ${BALLAST_IMAGES:-} ]]; then
        images=$BALLAST_IMAGES
        linux=$(readlink -f "$images/linux")
        release=$(basename "$linux"/lib/modules/*)
        return 0
    fi
    need_packages busybox-static cpio kmod xz-utils make gcc-12 libc6-dev
    mkdir -p "$cache"
    prepare_kernel
    key=$(cat "$images_source"/{common.sh,lab-init,guest-init,oracle.c,kexec.c,load.c,{edu,keep,mdev}/*} /bin/busybox | sha256sum | head -c 12)
    images=$cache/images-$(basename "$linux" | sed 's/^linux-//')-$key
    [[ ! -d $images ]] || return 0

    say "making the images (once for this kernel)"
    work=$(mktemp -d "$cache/tmp.XXXXXX")
    mkdir "$work/images"
    ln -s "$linux/boot/vmlinuz-$release" "$work/images/vmlinuz"
    ln -s "$linux/boot/vmlinux" "$work/images/vmlinux"
    make_guest_initramfs "$work/guest" "$work/images/guest.cpio"
    cp "$work/guest/bin/load" "$work/images/load"
    make_lab_initramfs "$work/lab" "$work/images/lab.cpio"
    build_module mdev "$work/images/ballast_mdev.ko"
    ln -s "$linux" "$work/images/linux"
    mv "$work/images" "$images"
    rm -rf "$work"
}
