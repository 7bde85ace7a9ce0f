// SPDX-License-Identifier: GPL-2.0
/*
 * The guest's driver for QEMU's teaching device `edu` (1234:11e8): a precise oracle for an assigned device.
 *
 * It is a module of the guest's kernel, since Debian's kernel hands MSI to no program in user space (no noiommu mode of
 * vfio), and because this way the kernel's own road to interrupts and DMA is tested. A script works it through files in the
 * device's sysfs folder:
 *   identity          the identification register
 *   liveness          write a number, read it back inverted
 *   factorial         write a number, read its factorial
 *   irq_mode          "msi" or "intx"
 *   fire              write how many interrupts to raise, one after the other; read how many came
 *   dma               write "low" or "high": a page is sent to the device and fetched back into another, both of them below or
 *                     above 4 GiB of guest memory; read what became of it
 *   good_page         a page of the driver's own, since it was loaded: read and write
 *   take              write a guest-physical address: the device reads the page there, and writes it to the good page
 *   put               write a guest-physical address: the device reads the good page, and writes the page there
 */
#include <linux/delay.h>
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/random.h>

#define EDU_IDENTITY 0x00
#define EDU_LIVENESS 0x04
#define EDU_FACTORIAL 0x08
#define EDU_STATUS 0x20
#define EDU_STATUS_COMPUTING 0x01
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
#define EDU_IRQ_DMA_DONE 0x100
#define EDU_BUFFER 0x40000
/* The buffer has 4096, but QEMU before 8 takes its last byte for one too many, and ends. */
#define EDU_DMA_BYTES 4095

#define FOUR_GIB (1ULL << 32)
#define PATIENCE_MS 5000

struct edu {
	struct pci_dev *pci;
	void __iomem *bar;
	struct mutex lock; /* one test at a time */
	bool msi;
	/* Written by the interrupt handler. */
	u32 counted;
	u32 spurious;
	u32 last_status;
	u8 *good_page; /* with the driver before any balloon can have had it */
	/* What the last tests found. */
	char fired[160];
	char dma[160];
};

static irqreturn_t edu_interrupt(int irq, void *context)
{
	struct edu *edu = context;
	u32 status = readl(edu->bar + EDU_IRQ_STATUS);

	if (status == 0) {
		WRITE_ONCE(edu->spurious, edu->spurious + 1);
		return IRQ_NONE;
	}
	writel(status, edu->bar + EDU_IRQ_ACK);
	readl(edu->bar +
	      EDU_IRQ_STATUS); /* the line is down before the controller hears of the end of interrupt */
	edu->last_status = status;
	smp_store_release(&edu->counted, edu->counted + 1);
	return IRQ_HANDLED;
}

/* Waits until `count` interrupts were counted; false if that does not happen. */
static bool edu_wait(struct edu *edu, u32 count)
{
	unsigned long deadline = jiffies + msecs_to_jiffies(PATIENCE_MS);

	while (smp_load_acquire(&edu->counted) != count) {
		if (time_after(jiffies, deadline))
			return false;
		cond_resched();
	}
	return true;
}

static int edu_set_irq_mode(struct edu *edu, bool msi)
{
	int err = pci_alloc_irq_vectors(edu->pci, 1, 1, msi ? PCI_IRQ_MSI : PCI_IRQ_LEGACY);

	if (err < 0)
		return err;
	err = request_irq(pci_irq_vector(edu->pci, 0), edu_interrupt, msi ? 0 : IRQF_SHARED,
			  "edu", edu);
	if (err) {
		pci_free_irq_vectors(edu->pci);
		return err;
	}
	edu->msi = msi;
	return 0;
}

static void edu_drop_irq(struct edu *edu)
{
	free_irq(pci_irq_vector(edu->pci, 0), edu);
	pci_free_irq_vectors(edu->pci);
}

static ssize_t identity_show(struct device *dev, struct device_attribute *attr, char *text)
{
	struct edu *edu = dev_get_drvdata(dev);

	return sysfs_emit(text, "0x%08x\n", readl(edu->bar + EDU_IDENTITY));
}
static DEVICE_ATTR_RO(identity);

static ssize_t liveness_store(struct device *dev, struct device_attribute *attr,
			      const char *text, size_t count)
{
	struct edu *edu = dev_get_drvdata(dev);
	u32 value;
	int err = kstrtou32(text, 0, &value);

	if (err)
		return err;
	writel(value, edu->bar + EDU_LIVENESS);
	return count;
}

static ssize_t liveness_show(struct device *dev, struct device_attribute *attr, char *text)
{
	struct edu *edu = dev_get_drvdata(dev);

	return sysfs_emit(text, "0x%08x\n", readl(edu->bar + EDU_LIVENESS));
}
static DEVICE_ATTR_RW(liveness);

static ssize_t factorial_store(struct device *dev, struct device_attribute *attr,
			       const char *text, size_t count)
{
	struct edu *edu = dev_get_drvdata(dev);
	unsigned long deadline = jiffies + msecs_to_jiffies(PATIENCE_MS);
	u32 value;
	int err = kstrtou32(text, 0, &value);

	if (err)
		return err;
	writel(value, edu->bar + EDU_FACTORIAL);
	while (readl(edu->bar + EDU_STATUS) & EDU_STATUS_COMPUTING) {
		if (time_after(jiffies, deadline))
			return -ETIMEDOUT;
		usleep_range(100, 1000);
	}
	return count;
}

static ssize_t factorial_show(struct device *dev, struct device_attribute *attr, char *text)
{
	struct edu *edu = dev_get_drvdata(dev);

	return sysfs_emit(text, "%u\n", readl(edu->bar + EDU_FACTORIAL));
}
static DEVICE_ATTR_RW(factorial);

static ssize_t irq_mode_store(struct device *dev, struct device_attribute *attr,
			      const char *text, size_t count)
{
	struct edu *edu = dev_get_drvdata(dev);
	int err;

	if (!sysfs_streq(text, "msi") && !sysfs_streq(text, "intx"))
		return -EINVAL;
	mutex_lock(&edu->lock);
	edu_drop_irq(edu);
	err = edu_set_irq_mode(edu, sysfs_streq(text, "msi"));
	if (err)
		WARN_ON(edu_set_irq_mode(edu, edu->msi)); /* what worked before works again */
	mutex_unlock(&edu->lock);
	return err ? err : count;
}

static ssize_t irq_mode_show(struct device *dev, struct device_attribute *attr, char *text)
{
	struct edu *edu = dev_get_drvdata(dev);

	return sysfs_emit(text, "%s irq=%d\n", edu->msi ? "msi" : "intx",
			  pci_irq_vector(edu->pci, 0));
}
static DEVICE_ATTR_RW(irq_mode);

/* Raises interrupts one after the other, each with a status of its own, and waits for each. */
static ssize_t fire_store(struct device *dev, struct device_attribute *attr, const char *text,
			  size_t count)
{
	struct edu *edu = dev_get_drvdata(dev);
	u32 wanted, raised, wrong = 0;
	u64 began;
	int err = kstrtou32(text, 0, &wanted);

	if (err)
		return err;
	mutex_lock(&edu->lock);
	edu->counted = 0;
	edu->spurious = 0;
	began = ktime_get_ns();
	for (raised = 0; raised < wanted; raised++) {
		u32 status = (raised & 0x7f) + 1;

		writel(status, edu->bar + EDU_IRQ_RAISE);
		if (!edu_wait(edu, raised + 1))
			break;
		wrong += edu->last_status != status;
	}
	msleep(50); /* for those that come twice */
	snprintf(edu->fired, sizeof(edu->fired),
		 "%s raised=%u counted=%u spurious=%u wrong=%u ns_each=%llu",
		 raised == wanted && edu->counted == wanted && wrong == 0 && edu->spurious == 0
			 ? "ok"
			 : "FAIL",
		 raised, edu->counted, edu->spurious, wrong,
		 (ktime_get_ns() - began) / max(raised, 1U));
	mutex_unlock(&edu->lock);
	return count;
}

static ssize_t fire_show(struct device *dev, struct device_attribute *attr, char *text)
{
	struct edu *edu = dev_get_drvdata(dev);

	return sysfs_emit(text, "%s\n", edu->fired);
}
static DEVICE_ATTR_RW(fire);

/* A page below or above 4 GiB, or NULL if the guest has none to give. */
static struct page *page_on_side(bool high)
{
	struct page *page = alloc_page(high ? GFP_KERNEL : GFP_KERNEL | GFP_DMA32);

	if (page && (page_to_phys(page) >= FOUR_GIB) != high) {
		__free_page(page);
		page = NULL;
	}
	return page;
}

static bool edu_transfer(struct edu *edu, u64 source, u64 destination, u64 command)
{
	u32 before = edu->counted;

	writeq(source, edu->bar + EDU_DMA_SOURCE);
	writeq(destination, edu->bar + EDU_DMA_DESTINATION);
	writeq(EDU_DMA_BYTES, edu->bar + EDU_DMA_COUNT);
	writeq(command | EDU_DMA_START | EDU_DMA_RAISE_IRQ, edu->bar + EDU_DMA_COMMAND);
	return edu_wait(edu, before + 1) && edu->last_status == EDU_IRQ_DMA_DONE;
}

/* Sends one page and fetches it into the other; returns what to tell. */
static const char *edu_round_trip(struct edu *edu, struct page *from, struct page *to)
{
	struct device *dev = &edu->pci->dev;
	dma_addr_t from_dma = dma_map_page(dev, from, 0, PAGE_SIZE, DMA_TO_DEVICE);
	dma_addr_t to_dma = dma_map_page(dev, to, 0, PAGE_SIZE, DMA_FROM_DEVICE);
	const char *verdict = "ok";

	if (dma_mapping_error(dev, from_dma) || dma_mapping_error(dev, to_dma))
		verdict = "FAIL not mapped";
	else if (from_dma != page_to_phys(from) || to_dma != page_to_phys(to))
		verdict = "FAIL bounced through another page";
	else if (!edu_transfer(edu, from_dma, EDU_BUFFER, 0))
		verdict = "FAIL no interrupt after the transfer to the device";
	else if (!edu_transfer(edu, EDU_BUFFER, to_dma, EDU_DMA_TO_RAM))
		verdict = "FAIL no interrupt after the transfer to memory";
	if (!dma_mapping_error(dev, from_dma))
		dma_unmap_page(dev, from_dma, PAGE_SIZE, DMA_TO_DEVICE);
	if (!dma_mapping_error(dev, to_dma))
		dma_unmap_page(dev, to_dma, PAGE_SIZE, DMA_FROM_DEVICE);
	return verdict;
}

static ssize_t dma_store(struct device *dev, struct device_attribute *attr, const char *text,
			 size_t count)
{
	struct edu *edu = dev_get_drvdata(dev);
	bool high = sysfs_streq(text, "high");
	const char *verdict;
	struct page *from, *to;

	if (!high && !sysfs_streq(text, "low"))
		return -EINVAL;
	from = page_on_side(high);
	to = page_on_side(high);
	mutex_lock(&edu->lock);
	if (!from || !to) {
		snprintf(edu->dma, sizeof(edu->dma), "none");
	} else {
		u8 *sent = page_address(from), *got = page_address(to);

		get_random_bytes(sent, PAGE_SIZE);
		memset(got, 0xa5, PAGE_SIZE);
		verdict = edu_round_trip(edu, from, to);
		if (!strcmp(verdict, "ok") && memcmp(sent, got, EDU_DMA_BYTES))
			verdict = "FAIL bytes differ";
		if (!strcmp(verdict, "ok") && got[EDU_DMA_BYTES] != 0xa5)
			verdict = "FAIL a byte behind the transfer was written";
		snprintf(edu->dma, sizeof(edu->dma), "%s bytes=%u from=0x%llx to=0x%llx",
			 verdict, EDU_DMA_BYTES, (u64)page_to_phys(from),
			 (u64)page_to_phys(to));
	}
	mutex_unlock(&edu->lock);
	if (from)
		__free_page(from);
	if (to)
		__free_page(to);
	return count;
}

static ssize_t dma_show(struct device *dev, struct device_attribute *attr, char *text)
{
	struct edu *edu = dev_get_drvdata(dev);

	return sysfs_emit(text, "%s\n", edu->dma);
}
static DEVICE_ATTR_RW(dma);

static ssize_t good_page_read(struct file *file, struct kobject *kobj,
			      struct bin_attribute *attr, char *bytes, loff_t offset,
			      size_t size)
{
	struct edu *edu = dev_get_drvdata(kobj_to_dev(kobj));

	return memory_read_from_buffer(bytes, size, &offset, edu->good_page, PAGE_SIZE);
}

static ssize_t good_page_write(struct file *file, struct kobject *kobj,
			       struct bin_attribute *attr, char *bytes, loff_t offset,
			       size_t size)
{
	struct edu *edu = dev_get_drvdata(kobj_to_dev(kobj));

	/* sysfs keeps offset and size within the attribute's size. */
	memcpy(edu->good_page + offset, bytes, size);
	return size;
}
static BIN_ATTR_RW(good_page, PAGE_SIZE);

/*
 * Moves a page at an address of the caller's choice to the good page or from it, by way of the device. The address goes
 * to the device as it is: there is no IOMMU in the guest, and any page is meant, whoever has it.
 */
static ssize_t edu_move(struct edu *edu, const char *text, size_t count, bool take)
{
	u64 good = virt_to_phys(edu->good_page), other;
	int err = kstrtou64(text, 0, &other);

	if (err)
		return err;
	if (!PAGE_ALIGNED(other))
		return -EINVAL;
	mutex_lock(&edu->lock);
	mb(); /* what the CPU wrote is in memory before the device looks */
	if (!edu_transfer(edu, take ? other : good, EDU_BUFFER, 0) ||
	    !edu_transfer(edu, EDU_BUFFER, take ? good : other, EDU_DMA_TO_RAM))
		err = -EIO;
	mutex_unlock(&edu->lock);
	return err ? err : count;
}

static ssize_t take_store(struct device *dev, struct device_attribute *attr, const char *text,
			  size_t count)
{
	return edu_move(dev_get_drvdata(dev), text, count, true);
}
static DEVICE_ATTR_WO(take);

static ssize_t put_store(struct device *dev, struct device_attribute *attr, const char *text,
			 size_t count)
{
	return edu_move(dev_get_drvdata(dev), text, count, false);
}
static DEVICE_ATTR_WO(put);

static struct attribute *edu_attrs[] = {
	&dev_attr_identity.attr, &dev_attr_liveness.attr, &dev_attr_factorial.attr,
	&dev_attr_irq_mode.attr, &dev_attr_fire.attr,     &dev_attr_dma.attr,
	&dev_attr_take.attr,     &dev_attr_put.attr,      NULL,
};

static struct bin_attribute *edu_bin_attrs[] = {
	&bin_attr_good_page,
	NULL,
};

static const struct attribute_group edu_group = {
	.attrs = edu_attrs,
	.bin_attrs = edu_bin_attrs,
};
__ATTRIBUTE_GROUPS(edu);

static int edu_probe(struct pci_dev *pci, const struct pci_device_id *id)
{
	struct edu *edu = devm_kzalloc(&pci->dev, sizeof(*edu), GFP_KERNEL);
	int err;

	if (!edu)
		return -ENOMEM;
	edu->pci = pci;
	mutex_init(&edu->lock);
	edu->good_page = (u8 *)devm_get_free_pages(&pci->dev, GFP_KERNEL, 0);
	if (!edu->good_page)
		return -ENOMEM;
	err = pcim_enable_device(pci);
	if (err)
		return err;
	err = pcim_iomap_regions(pci, BIT(0), "edu");
	if (err)
		return err;
	edu->bar = pcim_iomap_table(pci)[0];
	err = dma_set_mask_and_coherent(&pci->dev, DMA_BIT_MASK(64));
	if (err)
		return err;
	pci_set_master(pci);
	/* Whoever had the device before may have left an interrupt behind. */
	writel(readl(edu->bar + EDU_IRQ_STATUS), edu->bar + EDU_IRQ_ACK);
	pci_set_drvdata(pci, edu);
	return edu_set_irq_mode(edu, true);
}

static void edu_remove(struct pci_dev *pci)
{
	edu_drop_irq(pci_get_drvdata(pci));
}

static const struct pci_device_id edu_ids[] = { { PCI_DEVICE(0x1234, 0x11e8) }, {} };
MODULE_DEVICE_TABLE(pci, edu_ids);

static struct pci_driver edu_driver = {
	.name = "ballast_edu",
	.id_table = edu_ids,
	.probe = edu_probe,
	.remove = edu_remove,
	.dev_groups = edu_groups,
};
module_pci_driver(edu_driver);

MODULE_DESCRIPTION("Tests of an assigned edu device, seen from the guest");
MODULE_LICENSE("GPL");
