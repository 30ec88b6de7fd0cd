/* A stand-in for NVIDIA's pyxis, which needs enroot and images: a SPANK plugin with its three main options.
   It puts IMAGE/bin first on the task's PATH and the mounts into STAND_IN_MOUNTS. It shows that Slurm takes
   the options with sbatch and srun and hands them to the worker, not that containers start. */
#include <slurm/spank.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

SPANK_PLUGIN(pyxis_stand_in, 1)

static char image[4096], mounts[65536], workdir[4096];

static int keep(int which, const char *text, int remote)
{
	char *target = which == 0 ? image : which == 1 ? mounts : workdir;
	snprintf(target, which == 1 ? sizeof(mounts) : sizeof(image), "%s", text ? text : "");
	return 0;
}

static struct spank_option options[] = {
	{"container-image", "IMAGE", "the image to use", 1, 0, keep},
	{"container-mounts", "SRC:DST", "mounts of the host", 1, 1, keep},
	{"container-workdir", "PATH", "working directory in the container", 1, 2, keep},
	SPANK_OPTIONS_TABLE_END};

int slurm_spank_init(spank_t sp, int ac, char **av)
{
	for (struct spank_option *one = options; one->name; one++)
		if (spank_option_register(sp, one) != ESPANK_SUCCESS)
			return -1;
	return 0;
}

int slurm_spank_task_init(spank_t sp, int ac, char **av)
{
	char before[65536], after[70000];
	if (!image[0])
		return 0;
	if (spank_getenv(sp, "PATH", before, sizeof(before)) != ESPANK_SUCCESS)
		before[0] = 0;
	snprintf(after, sizeof(after), "%s/bin:%s", image, before);
	spank_setenv(sp, "PATH", after, 1);
	spank_setenv(sp, "STAND_IN_IMAGE", image, 1);
	spank_setenv(sp, "STAND_IN_MOUNTS", mounts, 1);
	return 0;
}
