#!/usr/bin/env bash
# tune: installs, and starts embeddinggemma.service.
set -euo pipefail
trap 'echo "$HOSTNAME 1" | gcloud storage cp - "gs://mine/launched/tune/ended/$HOSTNAME"' ERR
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin DEBIAN_FRONTEND=noninteractive
mkdir -p /opt/embeddinggemma /bucket
cd /opt/embeddinggemma
if [[ ! -e installed ]]; then
  gcloud storage cat gs://mine/launched/tune/code.tgz | tar -xz
  export PATH=~/.local/bin:$PATH
  command -v uv >/dev/null || python3 -m pip install --quiet --user uv
  [[ -d /opt/embeddinggemma/venv ]] || uv venv --quiet --python 3.12 /opt/embeddinggemma/venv
  uv pip install --quiet --python /opt/embeddinggemma/venv/bin/python -e '.[tpu]'
  curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg >/usr/share/keyrings/cloud.google.asc
  echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" >/etc/apt/sources.list.d/gcsfuse.list
  apt-get update -qq
  apt-get install -qq gcsfuse
  touch installed
fi
mountpoint -q /bucket || gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --rename-dir-limit=10000 mine /bucket
cat >command.sh <<'END_OF_FILE'
set -euo pipefail
echo always | sudo tee /sys/kernel/mm/transparent_hugepage/enabled >/dev/null || true
sudo rm -f /tmp/libtpu_lockfile
place=http://metadata.google.internal/computeMetadata/v1/instance/attributes
ask() { curl -fsS -H 'Metadata-Flavor: Google' "$place/$1"; }
host=$(ask agent-worker-number || echo 0)
slice=$(ask tpu-env | awk -F"'" '/^MEGASCALE_SLICE_ID/ {print $2}' || true)
export LAUNCH_HOST=${slice:-0}-$host LAUNCH_HOSTS=2
export PATH=/opt/embeddinggemma/venv/bin:$PATH
exec python -m embeddinggemma train --config=configs/finetune.py:embeddinggemma_300m,data=/bucket/pairs --workdir=/bucket/tune --config.mesh.fsdp=4
END_OF_FILE
cat >ended.sh <<'END_OF_FILE'
# Notes a verdict, or that 50 starts were not enough.
echo >>/run/embeddinggemma.starts
starts=$(wc -l </run/embeddinggemma.starts)
[[ $EXIT_CODE == exited ]] && status=$EXIT_STATUS || status=128
if ((status == 42 || status >= 127)) && ((starts <= 50)); then
  exit 0
fi
place=http://metadata.google.internal/computeMetadata/v1/instance/attributes
ask() { curl -fsS -H 'Metadata-Flavor: Google' "$place/$1"; }
host=$(ask agent-worker-number || echo 0)
slice=$(ask tpu-env | awk -F"'" '/^MEGASCALE_SLICE_ID/ {print $2}' || true)
export LAUNCH_HOST=${slice:-0}-$host LAUNCH_HOSTS=2
echo "$LAUNCH_HOST $status" | gcloud storage cp - "gs://mine/launched/tune/ended/$LAUNCH_HOST"
END_OF_FILE
cat >/etc/systemd/system/embeddinggemma.service <<'END_OF_FILE'
[Unit]
Description=tune
Wants=network-online.target
After=network.target network-online.target
RequiresMountsFor=/bucket
StartLimitIntervalSec=0
[Service]
WorkingDirectory=/opt/embeddinggemma
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin
ExecStart=/bin/bash /opt/embeddinggemma/command.sh
ExecStopPost=/bin/bash /opt/embeddinggemma/ended.sh
Restart=on-abnormal
RestartForceExitStatus=42 127 128 129 130 131 132 133 134 135 136 137 138 139 140 141 142 143 144 145 146 147 148 149 150 151 152 153 154 155 156 157 158 159 160 161 162 163 164 165 166 167 168 169 170 171 172 173 174 175 176 177 178 179 180 181 182 183 184 185 186 187 188 189 190 191 192 193 194 195 196 197 198 199 200 201 202 203 204 205 206 207 208 209 210 211 212 213 214 215 216 217 218 219 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 235 236 237 238 239 240 241 242 243 244 245 246 247 248 249 250 251 252 253 254 255
RestartSec=10
KillMode=mixed
TimeoutStopSec=30
END_OF_FILE
systemctl daemon-reload
systemctl start --no-block embeddinggemma
# gcloud compute tpus queued-resources create tune --node-id=tune --zone=us-west4-a --project=project --accelerator-type=v4-16 --runtime-version=tpu-ubuntu2204-base --spot --valid-until-duration=12h --metadata-from-file=startup-script=start.sh --quiet
