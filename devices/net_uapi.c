/* SPDX-License-Identifier: MIT */
#include "devices/net_uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <sys/ioctl.h>
#include <sys/socket.h>

#include <linux/if_tun.h>
#include <linux/vhost.h>

static int do_ioctl(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg) < 0 ? -errno : 0;
}

static int do_open(const char *path, int *ret_fd)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	*ret_fd = fd;
	return 0;
}

/* Cuts a name that is too long: whoever looks at the answer will see that it is another. */
static struct ifreq named(const char *name)
{
	struct ifreq req = { 0 };

	(void)strncpy(req.ifr_name, name, sizeof(req.ifr_name) - 1);
	return req;
}

int net_interface_flags(const char *name, unsigned int *ret_flags)
{
	struct ifreq req = named(name);

	autoclose int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int r = do_ioctl(fd, SIOCGIFFLAGS, &req);
	if (r >= 0)
		*ret_flags = (unsigned short)req.ifr_flags;
	return r;
}

int tun_open(int *ret_fd)
{
	return do_open("/dev/net/tun", ret_fd);
}

int tun_attach(int fd, const char *name, unsigned int flags)
{
	struct ifreq req = named(name);

	req.ifr_flags = (short)flags;
	return do_ioctl(fd, TUNSETIFF, &req);
}

int tun_get(int fd, char *ret_name, unsigned int *ret_flags)
{
	struct ifreq req = { 0 };

	int r = do_ioctl(fd, TUNGETIFF, &req);
	if (r < 0)
		return r;
	memcpy(ret_name, req.ifr_name, sizeof(req.ifr_name));
	ret_name[IFNAMSIZ - 1] = '\0';
	*ret_flags = (unsigned short)req.ifr_flags;
	return 0;
}

int tun_set_header_size(int fd, int size)
{
	return do_ioctl(fd, TUNSETVNETHDRSZ, &size);
}

int tun_set_offload(int fd, unsigned int offload)
{
	return ioctl(fd, TUNSETOFFLOAD, (unsigned long)offload) < 0 ? -errno : 0;
}

static int set_queue(int fd, short flags)
{
	struct ifreq req = { .ifr_flags = flags };

	return do_ioctl(fd, TUNSETQUEUE, &req);
}

int tun_attach_queue(int fd)
{
	return set_queue(fd, IFF_ATTACH_QUEUE);
}

int tun_detach_queue(int fd)
{
	return set_queue(fd, IFF_DETACH_QUEUE);
}

int vhost_open(int *ret_fd)
{
	return do_open("/dev/vhost-net", ret_fd);
}

int vhost_set_owner(int fd)
{
	return do_ioctl(fd, VHOST_SET_OWNER, NULL);
}

int vhost_get_features(int fd, uint64_t *ret_features)
{
	return do_ioctl(fd, VHOST_GET_FEATURES, ret_features);
}

int vhost_set_features(int fd, uint64_t features)
{
	return do_ioctl(fd, VHOST_SET_FEATURES, &features);
}

int vhost_set_memory(int fd, const struct vhost_memory *memory)
{
	/* The kernel only reads it. */
	return ioctl(fd, VHOST_SET_MEM_TABLE, memory) < 0 ? -errno : 0;
}

int vhost_set_size(int fd, unsigned int index, unsigned int size)
{
	struct vhost_vring_state state = { .index = index, .num = size };

	return do_ioctl(fd, VHOST_SET_VRING_NUM, &state);
}

int vhost_set_base(int fd, unsigned int index, unsigned int base)
{
	struct vhost_vring_state state = { .index = index, .num = base };

	return do_ioctl(fd, VHOST_SET_VRING_BASE, &state);
}

int vhost_get_base(int fd, unsigned int index, unsigned int *ret_base)
{
	struct vhost_vring_state state = { .index = index };

	int r = do_ioctl(fd, VHOST_GET_VRING_BASE, &state);
	if (r >= 0)
		*ret_base = state.num;
	return r;
}

int vhost_set_address(int fd, const struct vhost_vring_addr *address)
{
	return ioctl(fd, VHOST_SET_VRING_ADDR, address) < 0 ? -errno : 0;
}

static int set_file(int fd, unsigned long request, unsigned int index, int file)
{
	struct vhost_vring_file arg = { .index = index, .fd = file };

	return do_ioctl(fd, request, &arg);
}

int vhost_set_kick(int fd, unsigned int index, int eventfd)
{
	return set_file(fd, VHOST_SET_VRING_KICK, index, eventfd);
}

int vhost_set_call(int fd, unsigned int index, int eventfd)
{
	return set_file(fd, VHOST_SET_VRING_CALL, index, eventfd);
}

int vhost_set_error(int fd, unsigned int index, int eventfd)
{
	return set_file(fd, VHOST_SET_VRING_ERR, index, eventfd);
}

int vhost_set_backend(int fd, unsigned int index, int tap_fd)
{
	return set_file(fd, VHOST_NET_SET_BACKEND, index, tap_fd);
}
