/* SPDX-License-Identifier: MIT */
/*
 * net_uapi.h - every system call of tap interfaces and of vhost-net, one thin function each.
 *
 * -errno out, no log, no policy. The unit tests put a fake kernel in this file's place.
 * Threads: any.
 */
#ifndef DEVICES_NET_UAPI_H
#define DEVICES_NET_UAPI_H

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

#include <linux/vhost_types.h>

#include "base/util.h"

/* IFF_UP and others of netdevice(7). -ENODEV: there is no such interface. */
must_check int net_interface_flags(const char *name, unsigned int *ret_flags);

/* /dev/net/tun, non-blocking. */
must_check int tun_open(int *ret_fd);
/* TUNSETIFF; flags: IFF_TAP and the like. Makes an interface that is not there, for who may. */
must_check int tun_attach(int fd, const char *name, unsigned int flags);
/* TUNGETIFF; name: IFNAMSIZ bytes. */
must_check int tun_get(int fd, char *ret_name, unsigned int *ret_flags);
must_check int tun_set_header_size(int fd, int size);
/* A set of TUN_F_CSUM and the like: what the reader of the fd takes. */
must_check int tun_set_offload(int fd, unsigned int offload);
must_check int tun_attach_queue(int fd);
must_check int tun_detach_queue(int fd);

/* /dev/vhost-net */
must_check int vhost_open(int *ret_fd);
must_check int vhost_set_owner(int fd);
must_check int vhost_get_features(int fd, uint64_t *ret_features);
must_check int vhost_set_features(int fd, uint64_t features);
must_check int vhost_set_memory(int fd, const struct vhost_memory *memory);
must_check int vhost_set_size(int fd, unsigned int index, unsigned int size);
must_check int vhost_set_base(int fd, unsigned int index, unsigned int base);
must_check int vhost_get_base(int fd, unsigned int index, unsigned int *ret_base);
must_check int vhost_set_address(int fd, const struct vhost_vring_addr *address);
/* eventfds; -1: none */
must_check int vhost_set_kick(int fd, unsigned int index, int eventfd);
must_check int vhost_set_call(int fd, unsigned int index, int eventfd);
must_check int vhost_set_error(int fd, unsigned int index, int eventfd);
/* VHOST_NET_SET_BACKEND: a tap's fd. -1: none; returns when nothing is under way any more. */
must_check int vhost_set_backend(int fd, unsigned int index, int tap_fd);

#endif /* DEVICES_NET_UAPI_H */
