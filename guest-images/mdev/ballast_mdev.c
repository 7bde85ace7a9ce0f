// SPDX-License-Identifier: GPL-2.0
/*
 * A mediated device (mdev) for the lab host: QEMU's teaching device `edu` (1234:11e8), made up by software.
 *
 * It is what balloon=allowed is for: its driver, this one, pins a page of the guest for as long as one transfer takes, and
 * never asks for more. The guest finds a PCI device that it knows, with the same registers, and its driver in edu/ is the
 * oracle here as well. It has MSI and no INTx.
 *
 *   modprobe -a mdev vfio_iommu_type1 && insmod ballast_mdev.ko
 *   echo UUID >/sys/class/mdev_bus/ballast_mdev/mdev_supported_types/ballast_mdev-edu/create
 *   echo 1 >/sys/bus/mdev/devices/UUID/remove
 *
 * For Linux 6.1, whose interface between mdevs and their drivers is not that of the versions before and after.
 */
#include <linux/eventfd.h>
#include <linux/highmem.h>
#include <linux/iommu.h>
#include <linux/mdev.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>

#define NAME "ballast_mdev"
#define MAX_DEVICES 4

#define CONFIG_SIZE 256
#define BAR_SIZE 0x100000
#define MSI_OFFSET 0x40
/* A region's number is in the upper bits of an offset in the device's file. */
#define REGION_SHIFT 40

#define EDU_IDENTITY 0x00
#define EDU_LIVENESS 0x04
#define EDU_FACTORIAL 0x08
#define EDU_STATUS 0x20
#define EDU_STATUS_RAISE_IRQ 0x80
#define EDU_IRQ_STATUS 0x24
#define EDU_IRQ_RAISE 0x60
#define EDU_IRQ_ACK 0x64
#define EDU_DMA_SOURCE 0x80
#define EDU_DMA_DESTINATION 0x88
#define EDU_DMA_COUNT 0x90
#define EDU_DMA_COMMAND 0x98
#define EDU_DMA_START 0x1
#define EDU_DMA_TO_RAM 0x2
#define EDU_DMA_RAISE_IRQ 0x4
#define EDU_IRQ_FACTORIAL_DONE 0x1
#define EDU_IRQ_DMA_DONE 0x100
#define EDU_BUFFER 0x40000
#define EDU_BUFFER_SIZE 4096

struct edu {
	struct vfio_device vdev;
	struct mutex lock; /* all below */
	u8 config[CONFIG_SIZE];
	u8 writable[CONFIG_SIZE]; /* bits of the config space */
	u32 liveness;
	u32 factorial;
	u32 status;
	u32 irq_status;
	u64 dma[4]; /* source, destination, count, command */
	u8 buffer[EDU_BUFFER_SIZE];
	struct eventfd_ctx *msi; /* NULL: off */
};

static struct edu *edu_of(struct vfio_device *vdev)
{
	return container_of(vdev, struct edu, vdev);
}

static void set_16(u8 *bytes, unsigned int offset, u16 value)
{
	bytes[offset] = value;
	bytes[offset + 1] = value >> 8;
}

static void set_32(u8 *bytes, unsigned int offset, u32 value)
{
	set_16(bytes, offset, value);
	set_16(bytes, offset + 2, value >> 16);
}

/* As after power-on. */
static void edu_reset(struct edu *edu)
{
	u8 *config = edu->config, *writable = edu->writable;

	memset(config, 0, CONFIG_SIZE);
	set_16(config, PCI_VENDOR_ID, 0x1234);
	set_16(config, PCI_DEVICE_ID, 0x11e8);
	set_16(config, PCI_STATUS, PCI_STATUS_CAP_LIST);
	set_32(config, PCI_CLASS_REVISION, 0x00ff0010);
	set_16(config, PCI_SUBSYSTEM_VENDOR_ID, 0x1af4);
	set_16(config, PCI_SUBSYSTEM_ID, 0x1100);
	config[PCI_CAPABILITY_LIST] = MSI_OFFSET;
	config[MSI_OFFSET] = PCI_CAP_ID_MSI;
	set_16(config, MSI_OFFSET + PCI_MSI_FLAGS, PCI_MSI_FLAGS_64BIT);

	memset(writable, 0, CONFIG_SIZE);
	set_16(writable, PCI_COMMAND,
	       PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	writable[PCI_CACHE_LINE_SIZE] = 0xff;
	writable[PCI_INTERRUPT_LINE] = 0xff;
	set_32(writable, PCI_BASE_ADDRESS_0, ~(BAR_SIZE - 1));
	set_16(writable, MSI_OFFSET + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE);
	set_32(writable, MSI_OFFSET + PCI_MSI_ADDRESS_LO, ~3U);
	set_32(writable, MSI_OFFSET + PCI_MSI_ADDRESS_HI, ~0U);
	set_16(writable, MSI_OFFSET + PCI_MSI_DATA_64, 0xffff);

	edu->liveness = 0;
	edu->factorial = 0;
	edu->status = 0;
	edu->irq_status = 0;
	memset(edu->dma, 0, sizeof(edu->dma));
	memset(edu->buffer, 0, sizeof(edu->buffer));
}

static void edu_raise(struct edu *edu, u32 reason)
{
	edu->irq_status |= reason;
	if (edu->msi)
		eventfd_signal(edu->msi, 1);
}

/* Moves what lies in one page of the guest. The page is pinned for this long, and no longer. */
static int edu_move(struct edu *edu, u64 iova, u32 at, u32 size, bool to_ram)
{
	dma_addr_t base = iova & PAGE_MASK;
	struct page *page;
	int pinned = vfio_pin_pages(&edu->vdev, base, 1,
				    to_ram ? IOMMU_READ | IOMMU_WRITE : IOMMU_READ, &page);

	if (pinned != 1)
		return pinned < 0 ? pinned : -EFAULT;
	if (to_ram)
		memcpy_to_page(page, offset_in_page(iova), edu->buffer + at, size);
	else
		memcpy_from_page(edu->buffer + at, page, offset_in_page(iova), size);
	vfio_unpin_pages(&edu->vdev, base, 1);
	return 0;
}

static int edu_transfer(struct edu *edu)
{
	bool to_ram = edu->dma[3] & EDU_DMA_TO_RAM;
	u64 iova = edu->dma[to_ram ? 1 : 0];
	u64 inside = edu->dma[to_ram ? 0 : 1] - EDU_BUFFER;
	u64 left = edu->dma[2];

	if (!(edu->config[PCI_COMMAND] & PCI_COMMAND_MASTER))
		return -EPERM;
	if (inside > EDU_BUFFER_SIZE || left > EDU_BUFFER_SIZE - inside)
		return -ERANGE;
	while (left > 0) {
		u32 size = min_t(u64, left, PAGE_SIZE - offset_in_page(iova));
		int err = edu_move(edu, iova, inside, size, to_ram);

		if (err)
			return err;
		iova += size;
		inside += size;
		left -= size;
	}
	return 0;
}

static void edu_command(struct edu *edu)
{
	int err;

	if (!(edu->dma[3] & EDU_DMA_START))
		return;
	err = edu_transfer(edu);
	if (err)
		dev_warn_ratelimited(edu->vdev.dev,
				     "transfer 0x%llx to 0x%llx, 0x%llx bytes: error %d\n",
				     edu->dma[0], edu->dma[1], edu->dma[2], err);
	else if (edu->dma[3] & EDU_DMA_RAISE_IRQ)
		edu_raise(edu, EDU_IRQ_DMA_DONE);
	edu->dma[3] &= ~(u64)EDU_DMA_START;
}

static u32 edu_register(const struct edu *edu, unsigned int offset)
{
	switch (offset) {
	case EDU_IDENTITY: return 0x010000ed;
	case EDU_LIVENESS: return edu->liveness;
	case EDU_FACTORIAL: return edu->factorial;
	case EDU_STATUS: return edu->status;
	case EDU_IRQ_STATUS: return edu->irq_status;
	default: return ~0U;
	}
}

static void edu_factorial(struct edu *edu, u32 n)
{
	edu->factorial = 1;
	/* From 34 on all that is left in 32 bits is zero. */
	for (n = min(n, 34U); n > 1; n--)
		edu->factorial *= n;
	if (edu->status & EDU_STATUS_RAISE_IRQ)
		edu_raise(edu, EDU_IRQ_FACTORIAL_DONE);
}

static void edu_set_register(struct edu *edu, unsigned int offset, u32 value)
{
	switch (offset) {
	case EDU_LIVENESS: edu->liveness = ~value; break;
	case EDU_FACTORIAL: edu_factorial(edu, value); break;
	case EDU_STATUS: edu->status = value & EDU_STATUS_RAISE_IRQ; break;
	case EDU_IRQ_RAISE: edu_raise(edu, value); break;
	case EDU_IRQ_ACK: edu->irq_status &= ~value; break;
	}
}

static bool is_dma_register(u64 offset, size_t size)
{
	return offset >= EDU_DMA_SOURCE && offset + size <= EDU_DMA_COMMAND + 8;
}

/* Accesses are aligned and of 1, 2, 4 or 8 bytes. What the registers do not know reads as ones. */
static void bar_read(struct edu *edu, u64 offset, void *bytes, size_t size)
{
	u32 value;

	memset(bytes, 0xff, size);
	if (is_dma_register(offset, size)) {
		memcpy(bytes, (u8 *)edu->dma + (offset - EDU_DMA_SOURCE), size);
	} else if (offset < EDU_DMA_SOURCE && size == 4) {
		value = edu_register(edu, offset);
		memcpy(bytes, &value, size);
	}
}

static void bar_write(struct edu *edu, u64 offset, const void *bytes, size_t size)
{
	u32 value;

	if (!(edu->config[PCI_COMMAND] & PCI_COMMAND_MEMORY))
		return;
	if (is_dma_register(offset, size)) {
		memcpy((u8 *)edu->dma + (offset - EDU_DMA_SOURCE), bytes, size);
		if (offset == EDU_DMA_COMMAND)
			edu_command(edu);
	} else if (offset < EDU_DMA_SOURCE && size == 4) {
		memcpy(&value, bytes, size);
		edu_set_register(edu, offset, value);
	}
}

static void config_write(struct edu *edu, u64 offset, const u8 *bytes, size_t size)
{
	size_t i;

	for (i = 0; i < size; i++) {
		u8 mask = edu->writable[offset + i];

		edu->config[offset + i] = (edu->config[offset + i] & ~mask) | (bytes[i] & mask);
	}
}

static u64 region_size(unsigned int region)
{
	switch (region) {
	case VFIO_PCI_BAR0_REGION_INDEX: return BAR_SIZE;
	case VFIO_PCI_CONFIG_REGION_INDEX: return CONFIG_SIZE;
	default: return 0;
	}
}

/* How much of the access is one that the device can make out: 8, 4, 2 or 1 bytes, aligned. 0: it is beyond the end. */
static size_t clip(loff_t position, size_t count)
{
	u64 offset = position & (BIT_ULL(REGION_SHIFT) - 1);
	u64 size = region_size(position >> REGION_SHIFT);
	size_t part = 8;

	if (offset >= size)
		return 0;
	count = min_t(u64, count, size - offset);
	while (part > count || offset % part)
		part /= 2;
	return part;
}

static void access_part(struct edu *edu, loff_t position, u8 *bytes, size_t size, bool write)
{
	bool config = position >> REGION_SHIFT == VFIO_PCI_CONFIG_REGION_INDEX;
	u64 offset = position & (BIT_ULL(REGION_SHIFT) - 1);

	mutex_lock(&edu->lock);
	if (config && write)
		config_write(edu, offset, bytes, size);
	else if (config)
		memcpy(bytes, edu->config + offset, size);
	else if (write)
		bar_write(edu, offset, bytes, size);
	else
		bar_read(edu, offset, bytes, size);
	mutex_unlock(&edu->lock);
}

static ssize_t edu_read(struct vfio_device *vdev, char __user *to, size_t count,
			loff_t *position)
{
	u8 bytes[8];
	size_t size, done;

	for (done = 0; done < count; done += size) {
		size = clip(*position, count - done);
		if (size == 0)
			break;
		access_part(edu_of(vdev), *position, bytes, size, false);
		if (copy_to_user(to + done, bytes, size))
			return -EFAULT;
		*position += size;
	}
	return done;
}

static ssize_t edu_write(struct vfio_device *vdev, const char __user *from, size_t count,
			 loff_t *position)
{
	u8 bytes[8];
	size_t size, done;

	for (done = 0; done < count; done += size) {
		size = clip(*position, count - done);
		if (size == 0)
			break;
		if (copy_from_user(bytes, from + done, size))
			return -EFAULT;
		access_part(edu_of(vdev), *position, bytes, size, true);
		*position += size;
	}
	return done;
}

static int get_info(void __user *arg)
{
	struct vfio_device_info info;
	size_t size = offsetofend(struct vfio_device_info, num_irqs);

	if (copy_from_user(&info, arg, size))
		return -EFAULT;
	if (info.argsz < size)
		return -EINVAL;
	info.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
	info.num_regions = VFIO_PCI_NUM_REGIONS;
	info.num_irqs = VFIO_PCI_NUM_IRQS;
	return copy_to_user(arg, &info, size) ? -EFAULT : 0;
}

static int get_region_info(void __user *arg)
{
	struct vfio_region_info info;
	size_t size = offsetofend(struct vfio_region_info, offset);

	if (copy_from_user(&info, arg, size))
		return -EFAULT;
	if (info.argsz < size || info.index >= VFIO_PCI_NUM_REGIONS)
		return -EINVAL;
	info.size = region_size(info.index);
	info.flags = info.size ? VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE : 0;
	info.offset = (u64)info.index << REGION_SHIFT;
	info.cap_offset = 0;
	return copy_to_user(arg, &info, size) ? -EFAULT : 0;
}

static int get_irq_info(void __user *arg)
{
	struct vfio_irq_info info;
	size_t size = offsetofend(struct vfio_irq_info, count);

	if (copy_from_user(&info, arg, size))
		return -EFAULT;
	if (info.argsz < size || info.index >= VFIO_PCI_NUM_IRQS)
		return -EINVAL;
	info.count = info.index == VFIO_PCI_MSI_IRQ_INDEX;
	info.flags = info.count ? VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE : 0;
	return copy_to_user(arg, &info, size) ? -EFAULT : 0;
}

/* Of MSI, the one index there is: bound to an eventfd, switched off, or signalled for a test. */
static int set_msi(struct edu *edu, const struct vfio_irq_set *set, const void __user *data)
{
	struct eventfd_ctx *old, *msi = NULL;
	int fd = -1;

	if (set->flags == (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER) &&
	    set->count) {
		mutex_lock(&edu->lock);
		edu_raise(edu, 0);
		mutex_unlock(&edu->lock);
		return 0;
	}
	if (set->flags == (VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER)) {
		if (copy_from_user(&fd, data, sizeof(fd)))
			return -EFAULT;
	} else if (set->flags != (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER)) {
		return -EINVAL;
	}
	if (fd >= 0) {
		msi = eventfd_ctx_fdget(fd);
		if (IS_ERR(msi))
			return PTR_ERR(msi);
	}
	mutex_lock(&edu->lock);
	old = edu->msi;
	edu->msi = msi;
	mutex_unlock(&edu->lock);
	if (old)
		eventfd_ctx_put(old);
	return 0;
}

static int set_irqs(struct edu *edu, void __user *arg)
{
	struct vfio_irq_set set;
	size_t size = offsetofend(struct vfio_irq_set, count), data_size;
	int err;

	if (copy_from_user(&set, arg, size))
		return -EFAULT;
	err = vfio_set_irqs_validate_and_prepare(&set, set.index == VFIO_PCI_MSI_IRQ_INDEX,
						 VFIO_PCI_NUM_IRQS, &data_size);
	if (err)
		return err;
	return set.index == VFIO_PCI_MSI_IRQ_INDEX ? set_msi(edu, &set, arg + size) : -EINVAL;
}

static long edu_ioctl(struct vfio_device *vdev, unsigned int request, unsigned long arg)
{
	struct edu *edu = edu_of(vdev);

	switch (request) {
	case VFIO_DEVICE_GET_INFO: return get_info((void __user *)arg);
	case VFIO_DEVICE_GET_REGION_INFO: return get_region_info((void __user *)arg);
	case VFIO_DEVICE_GET_IRQ_INFO: return get_irq_info((void __user *)arg);
	case VFIO_DEVICE_SET_IRQS: return set_irqs(edu, (void __user *)arg);
	case VFIO_DEVICE_RESET:
		mutex_lock(&edu->lock);
		edu_reset(edu);
		mutex_unlock(&edu->lock);
		return 0;
	default: return -ENOTTY;
	}
}

static int edu_open(struct vfio_device *vdev)
{
	edu_reset(edu_of(vdev));
	return 0;
}

static void edu_close(struct vfio_device *vdev)
{
	struct edu *edu = edu_of(vdev);

	if (edu->msi)
		eventfd_ctx_put(edu->msi);
	edu->msi = NULL;
}

/* Who pins must listen to this. Outside of a transfer nothing is pinned, and a transfer ends by itself. */
static void edu_dma_unmap(struct vfio_device *vdev, u64 iova, u64 length)
{
}

static int edu_init(struct vfio_device *vdev)
{
	mutex_init(&edu_of(vdev)->lock);
	return 0;
}

static void edu_release(struct vfio_device *vdev)
{
	vfio_free_device(vdev);
}

static const struct vfio_device_ops edu_ops = {
	.name = NAME,
	.init = edu_init,
	.release = edu_release,
	.open_device = edu_open,
	.close_device = edu_close,
	.read = edu_read,
	.write = edu_write,
	.ioctl = edu_ioctl,
	.dma_unmap = edu_dma_unmap,
};

static int mdev_probe(struct mdev_device *mdev)
{
	struct edu *edu = vfio_alloc_device(edu, vdev, &mdev->dev, &edu_ops);
	int err;

	if (IS_ERR(edu))
		return PTR_ERR(edu);
	dev_set_drvdata(&mdev->dev, edu);
	err = vfio_register_emulated_iommu_dev(&edu->vdev);
	if (err)
		vfio_put_device(&edu->vdev);
	return err;
}

static void mdev_remove(struct mdev_device *mdev)
{
	struct edu *edu = dev_get_drvdata(&mdev->dev);

	vfio_unregister_group_dev(&edu->vdev);
	vfio_put_device(&edu->vdev);
}

static struct mdev_driver mdev_driver = {
	.device_api = VFIO_DEVICE_API_PCI_STRING,
	.max_instances = MAX_DEVICES,
	.probe = mdev_probe,
	.remove = mdev_remove,
	.driver = {
		.name = NAME,
		.owner = THIS_MODULE,
		.mod_name = KBUILD_MODNAME,
	},
};

static struct mdev_type edu_type = { .sysfs_name = "edu",
				     .pretty_name = "QEMU's edu, in software" };
static struct mdev_type *types[] = { &edu_type };
static struct mdev_parent mdev_parent;
static struct class *parent_class;
static struct device *parent;

static int __init ballast_mdev_init(void)
{
	int err = mdev_register_driver(&mdev_driver);

	if (err)
		return err;
	parent_class = class_create(THIS_MODULE, NAME);
	if (IS_ERR(parent_class)) {
		err = PTR_ERR(parent_class);
		goto no_class;
	}
	parent = device_create(parent_class, NULL, MKDEV(0, 0), NULL, NAME);
	if (IS_ERR(parent)) {
		err = PTR_ERR(parent);
		goto no_parent;
	}
	err = mdev_register_parent(&mdev_parent, parent, &mdev_driver, types,
				   ARRAY_SIZE(types));
	if (!err)
		return 0;
	device_unregister(parent);
no_parent:
	class_destroy(parent_class);
no_class:
	mdev_unregister_driver(&mdev_driver);
	return err;
}

static void __exit ballast_mdev_exit(void)
{
	mdev_unregister_parent(&mdev_parent);
	device_unregister(parent);
	class_destroy(parent_class);
	mdev_unregister_driver(&mdev_driver);
}

module_init(ballast_mdev_init);
module_exit(ballast_mdev_exit);
MODULE_DESCRIPTION("A mediated teaching device for Ballast's lab");
MODULE_LICENSE("GPL");
