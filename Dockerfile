# docker build -t nagbench . && docker run --rm -v "$PWD:/work" nagbench
# runs the demonstration on the CPU; results are in ./results. A sweep of yours, in the current folder:
# docker run --rm -v "$PWD:/work" nagbench run SWEEP.yaml. With GPUs: --gpus all.
FROM python:3.12-slim
COPY pyproject.toml README.md LICENSE constraints.txt /opt/nagbench/
COPY nag /opt/nagbench/nag
COPY orchestrator /opt/nagbench/orchestrator
COPY sites /opt/nagbench/sites
COPY sweeps /opt/nagbench/sweeps
COPY examples /opt/nagbench/examples
COPY results/reference /opt/nagbench/results/reference
COPY results/published/cifar10_small/features.py /opt/nagbench/results/published/cifar10_small/features.py
RUN pip install --no-cache-dir '/opt/nagbench[ode,latents,timm]'
WORKDIR /work
ENTRYPOINT ["nagbench"]
CMD ["run", "/opt/nagbench/sweeps/digits.yaml"]
