/* SPDX-License-Identifier: MIT */
#include "tests/fakes/net_kernel.h"

#include <errno.h>
#include <string.h>

#include <sys/socket.h>

#include <linux/if_tun.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>

#include "base/fd.h"

#include "devices/net_uapi.h"
#include "tests/fakes/process.h"

struct fake_net fake_net;

void fake_net_init(void)
{
	fake_net = (struct fake_net){
		.error = -EIO,
		.interface_flags = IFF_UP,
		.tun_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
		.vhost_features = 1ull << VIRTIO_RING_F_INDIRECT_DESC |
				  1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_F_VERSION_1 |
				  1ull << VIRTIO_NET_F_MRG_RXBUF |
				  1ull << VHOST_NET_F_VIRTIO_NET_HDR,
	};
}

void fake_net_finish(void)
{
	for (unsigned int i = 0; i < fake_net.nr_taps; i++)
		fd_close(&fake_net.peers[i]);
}

static int step(void)
{
	return ++fake_net.nr_calls == fake_net.fail_at ? fake_net.error : 0;
}

int fake_net_open_tap(void)
{
	int fds[2];

	ck_assert_uint_lt(fake_net.nr_taps, FAKE_NET_MAX);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
		return -errno;
	fake_net.taps[fake_net.nr_taps] = fds[0];
	fake_net.peers[fake_net.nr_taps++] = fds[1];
	return fds[0];
}

static unsigned int tap_of(int fd)
{
	unsigned int i = fake_net.nr_taps;

	while (i-- > 0 && fake_net.taps[i] != fd)
		;
	return i;
}

int net_interface_flags(const char *name, unsigned int *ret_flags)
{
	*ret_flags = fake_net.interface_flags;
	if (strcmp(name, FAKE_INTERFACE) != 0)
		return -ENODEV;
	return step();
}

int tun_open(int *ret_fd)
{
	int r = step();
	if (r >= 0)
		r = fake_net_open_tap();
	if (r < 0)
		return r;
	*ret_fd = r;
	return 0;
}

int tun_attach(int fd, const char *name, unsigned int flags)
{
	ck_assert_str_eq(name, FAKE_INTERFACE);
	fake_net.attach_flags = flags;
	int r = step();
	if (r >= 0)
		fake_net.attached[tap_of(fd)] = true;
	return r;
}

int tun_get(int fd, char *ret_name, unsigned int *ret_flags)
{
	if (tap_of(fd) >= fake_net.nr_taps)
		return -ENOTTY;
	strcpy(ret_name, FAKE_INTERFACE);
	*ret_flags = fake_net.tun_flags;
	return step();
}

int tun_set_header_size(int fd, int size)
{
	(void)fd;
	fake_net.header_size = size;
	return step();
}

int tun_set_offload(int fd, unsigned int offload)
{
	ck_assert_uint_lt(tap_of(fd), fake_net.nr_taps);
	/* As the kernel has it. */
	if (fake_net.no_offload && offload)
		return -EINVAL;
	if (!(offload & TUN_F_CSUM) && offload)
		return -EINVAL;
	if ((offload & TUN_F_TSO_ECN) && !(offload & (TUN_F_TSO4 | TUN_F_TSO6)))
		return -EINVAL;
	int r = step();
	if (r >= 0)
		fake_net.offload = offload;
	return r;
}

static int set_attached(int fd, bool attached)
{
	ck_assert_uint_ne(fake_net.attached[tap_of(fd)], attached);
	int r = step();
	if (r >= 0)
		fake_net.attached[tap_of(fd)] = attached;
	return r;
}

int tun_attach_queue(int fd)
{
	return set_attached(fd, true);
}

int tun_detach_queue(int fd)
{
	return set_attached(fd, false);
}

int vhost_open(int *ret_fd)
{
	if (fake_net.vhost_error)
		return fake_net.vhost_error;
	int r = step();
	if (r >= 0)
		r = eventfd_create(ret_fd);
	if (r < 0)
		return r;
	ck_assert_uint_lt(fake_net.nr_vhosts, FAKE_NET_MAX);
	struct fake_vhost *v = &fake_net.vhosts[fake_net.nr_vhosts++];
	*v = (struct fake_vhost){ .fd = *ret_fd };
	for (unsigned int i = 0; i < 2; i++)
		v->queues[i].kick = v->queues[i].call = v->queues[i].error =
			v->queues[i].backend = -1;
	return 0;
}

static struct fake_vhost *vhost_of(int fd)
{
	unsigned int i = fake_net.nr_vhosts;

	while (i-- > 0) {
		if (fake_net.vhosts[i].fd == fd)
			return &fake_net.vhosts[i];
	}
	ck_abort_msg("not one of vhost's");
}

int vhost_set_owner(int fd)
{
	vhost_of(fd)->owned = true;
	return step();
}

int vhost_get_features(int fd, uint64_t *ret_features)
{
	ck_assert(vhost_of(fd)->owned);
	*ret_features = fake_net.vhost_features;
	return step();
}

int vhost_set_features(int fd, uint64_t features)
{
	ck_assert_uint_eq(features & ~fake_net.vhost_features, 0);
	vhost_of(fd)->features = features;
	return step();
}

int vhost_set_memory(int fd, const struct vhost_memory *memory)
{
	struct fake_vhost *v = vhost_of(fd);

	int r = step();
	if (r < 0)
		return r;
	v->nr_regions = memory->nregions;
	memcpy(v->regions, memory->regions, v->nr_regions * sizeof(v->regions[0]));
	return 0;
}

/* What may not be changed while a queue is at work. */
static int step_at_rest(int fd, unsigned int index)
{
	return vhost_of(fd)->queues[index].backend >= 0 ? -EBUSY : step();
}

int vhost_set_size(int fd, unsigned int index, unsigned int size)
{
	vhost_of(fd)->queues[index].size = size;
	return step_at_rest(fd, index);
}

int vhost_set_base(int fd, unsigned int index, unsigned int base)
{
	vhost_of(fd)->queues[index].base = base;
	return step_at_rest(fd, index);
}

int vhost_get_base(int fd, unsigned int index, unsigned int *ret_base)
{
	*ret_base = vhost_of(fd)->queues[index].base;
	return step_at_rest(fd, index);
}

int vhost_set_address(int fd, const struct vhost_vring_addr *address)
{
	vhost_of(fd)->queues[address->index].address = *address;
	return step();
}

int vhost_set_kick(int fd, unsigned int index, int eventfd)
{
	vhost_of(fd)->queues[index].kick = eventfd;
	return step();
}

int vhost_set_call(int fd, unsigned int index, int eventfd)
{
	vhost_of(fd)->queues[index].call = eventfd;
	return step();
}

int vhost_set_error(int fd, unsigned int index, int eventfd)
{
	vhost_of(fd)->queues[index].error = eventfd;
	return step();
}

int vhost_set_backend(int fd, unsigned int index, int tap_fd)
{
	/* A queue that was set up can be stopped. */
	int r = tap_fd < 0 ? 0 : step();
	if (r >= 0)
		vhost_of(fd)->queues[index].backend = tap_fd;
	return r;
}
