/* SPDX-License-Identifier: MIT */
/*
 * bind.h - `ballast bind` and `ballast unbind`: PCI functions taken from their drivers for vfio-pci,
 * and given back.
 *
 * Concepts
 *  - record: /run/ballast/bind/BDF, which says what driver and what driver_override a function
 *    had. It is on disk before the first change, and goes after the last change back: whatever
 *    was cut short in between, unbind restores. Of a function that a driver of the host's has
 *    again without unbind it is old, and bind writes it anew.
 *  - group: what else is in the IOMMU group of a function must have no driver of the host's
 *    either. It is bound along, but for bridges and what has no driver; unbind gives all of it back.
 *
 * Threads: one. Two commands at once wait for each other.
 */
#ifndef VMM_BIND_H
#define VMM_BIND_H

#include <stdbool.h>

#include "base/util.h"

/* Whether what the host itself lives on may be taken. */
enum bind_force { BIND_CAREFULLY, BIND_FORCED };

/*
 * Binds the functions, by the names users give them, and their groups, to vfio-pci, and says on
 * standard output what it did. What is bound already stays as it is. `root`: see host_pci.h.
 * Logged, with what to do: -EINVAL: no name, or a bridge. -ENODEV: no such function. -ENOENT:
 * vfio-pci is not loaded. -EOPNOTSUPP: no IOMMU. -EBUSY: the host's root disk or only network
 * link depends on it, or may. -EACCES, -EPERM: not root. -EIO: vfio-pci does not take it, or what
 * would be -EINVAL or -ENODEV from the kernel. Others from there. On failure all is as before, as far as the kernel lets it be; what is not has its record.
 */
must_check int bind_devices(const char *root, const char *const *names, unsigned int nr,
			    enum bind_force force);
/*
 * The reverse, for the whole group. Logged: -EINVAL: no name. -ENOENT: it was not bound by
 * bind_devices(), or its former driver is not loaded. -EBUSY: a guest has it. -EPROTO: the
 * record is damaged. Others as above. What it has not given back has its record still.
 */
must_check int unbind_devices(const char *root, const char *const *names, unsigned int nr);

/* The commands. Return an enum exit_status. */
int bind_main(int argc, char **argv);
int unbind_main(int argc, char **argv);

#endif /* VMM_BIND_H */
