# docker build -t nagbench . && docker run --rm -v "$PWD/results:/nagbench/results" nagbench
# runs the demonstration on the CPU; results are in ./results. With GPUs: --gpus all.
FROM python:3.12-slim
WORKDIR /nagbench
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY nag nag
COPY orchestrator orchestrator
COPY sites sites
COPY sweeps sweeps
COPY examples examples
RUN pip install --no-cache-dir '.[ode,latents,timm]'
ENTRYPOINT ["nagbench"]
CMD ["run", "sweeps/digits.yaml"]
